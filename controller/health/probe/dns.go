package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxDatagram is the largest datagram there is.
const maxDatagram = 64 << 10

var recordTypes = map[string]dnsmessage.Type{
	"SOA": dnsmessage.TypeSOA, "NS": dnsmessage.TypeNS, "A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "MX": dnsmessage.TypeMX,
	"TXT": dnsmessage.TypeTXT, "SRV": dnsmessage.TypeSRV, "CNAME": dnsmessage.TypeCNAME, "PTR": dnsmessage.TypePTR,
}

// dns asks a name server by UDP (RFC 1035).
func (w *wire) dns(ctx context.Context) error {
	c := &w.target.Check
	name, err := dnsmessage.NewName(c.Name)
	if err != nil {
		return err
	}
	question := dnsmessage.Question{Name: name, Type: recordTypes[c.Record], Class: dnsmessage.ClassINET}
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	b, err := query.Pack()
	if err != nil {
		return err
	}
	return w.datagram(ctx, b, func(answer []byte) (bool, error) { return dnsAnswer(answer, &query) })
}

// dnsAnswer reports whether a datagram answers a query, and how.
func dnsAnswer(b []byte, query *dnsmessage.Message) (ours bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != query.ID {
		return false, nil
	}
	q, err := p.Question()
	if err != nil || q.Type != query.Questions[0].Type || !strings.EqualFold(q.Name.String(), query.Questions[0].Name.String()) {
		return false, nil
	}
	if h.RCode != dnsmessage.RCodeSuccess {
		return true, fmt.Errorf("%s for %s", strings.TrimPrefix(h.RCode.String(), "RCode"), q.Name)
	}
	return true, nil
}
