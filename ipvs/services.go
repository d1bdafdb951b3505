package ipvs

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// maxPasses bounds how often a list is read again because it changed while it was read.
const maxPasses = 5

// Services lists the whole table: services in the order of their keys, each with its destinations in
// the kernel's order.
//
// The kernel lists in chunks of up to 32 KiB, some 70 entries, and continues by counting: a change
// made by another program between two chunks hides an entry or shows one twice. So what
// took more than one chunk is read again until two readings in a row have the same keys, at most
// five times; while somebody changes the table all the time everything is returned that any of the
// readings has, each as it was last seen. Changes of this client never come in between.
func (c *Client) Services(ctx context.Context) ([]ServiceEntry, error) {
	services, err := c.listAll(ctx, maxPasses)
	slices.SortFunc(services, func(a, b ServiceEntry) int { return a.Key.Compare(b.Key) })
	return services, err
}

// List reads the table once, in the kernel's order: what [Client.Services] avoids may happen, but for
// duplicates. It costs half of Services where services have a hundred destinations.
func (c *Client) List(ctx context.Context) ([]ServiceEntry, error) {
	return c.listAll(ctx, 0)
}

// Service reads one service, without its destinations. The error is unix.ESRCH if there is none.
func (c *Client) Service(ctx context.Context, k Key) (ServiceEntry, error) {
	type result struct{ services []ServiceEntry }
	out := new(result)
	err := c.request(ctx, func(op *operation) error {
		out.services = nil
		c.reads.Add(1)
		c.begin(cmdGetService, unix.NLM_F_ACK)
		nest := len(c.out)
		c.out = appendNest(c.out, attrService)
		c.out = appendServiceKey(c.out, k)
		endNest(c.out, nest)
		_, err := c.exchange(op, c.collectServices(&out.services))
		return err
	})
	if err == nil && len(out.services) != 1 {
		err = errMalformed
	}
	if err != nil {
		return ServiceEntry{}, fmt.Errorf("failed to read service %s: %w", k, err)
	}
	return out.services[0], nil
}

// collectServices is for exchange: it appends the services of an answer to list.
func (c *Client) collectServices(list *[]ServiceEntry) func(cmd uint8, data []byte) error {
	return func(_ uint8, data []byte) error {
		for it := attrs(data); it.next(); {
			if it.typ != attrService {
				continue
			}
			s, err := c.names.decodeService(it.value)
			if err != nil {
				return err
			}
			*list = append(*list, s)
		}
		return nil
	}
}

// ListServices reads the services once, in the kernel's order, without their destinations.
func (c *Client) ListServices(ctx context.Context) ([]ServiceEntry, error) {
	type result struct{ services []ServiceEntry }
	out := new(result)
	err := c.request(ctx, func(op *operation) (err error) {
		out.services, err = c.dumpServices(op)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("failed to list services: %w", err)
	}
	return out.services, nil
}

// EachDestination reads the destinations of the services once and hands each over as it arrives, in the
// kernel's order: of the services in the order given, with the service's index. Nothing is kept, so that a
// list of any length costs no memory here; as with [Client.List] a change made by another program meanwhile may hide
// an entry, and here show one twice. Of a service that is missing there are none.
//
// each must not use d after it returns, nor this client. After an error it may run for a moment
// more, in another goroutine: what it has written must not be used then.
func (c *Client) EachDestination(ctx context.Context, services []ServiceEntry, each func(service int, d *DestinationEntry)) error {
	keys := make([]Key, len(services))
	for i := range services {
		keys[i] = services[i].Key
	}
	begun := false
	err := c.request(ctx, func(op *operation) error {
		for i, k := range keys {
			_, err := c.exchangeDests(op, k, func(d *DestinationEntry) {
				begun = true
				each(i, d)
			})
			if err != nil && begun { // not an *answer, after which request would begin again
				return fmt.Errorf("the list broke off: %v", err)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("failed to list servers: %w", err)
	}
	return nil
}

func (c *Client) listAll(ctx context.Context, passes int) ([]ServiceEntry, error) {
	type result struct{ services []ServiceEntry }
	out := new(result)
	err := c.request(ctx, func(op *operation) (err error) {
		out.services, err = c.list(op, passes)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("failed to list services: %w", err)
	}
	return out.services, nil
}

// list reads the table, and each list in it again at most passes times until it has not changed.
func (c *Client) list(op *operation, passes int) ([]ServiceEntry, error) {
	services, err := c.dumpServices(op)
	if err != nil {
		return nil, err
	}
	dests := make(map[Key][]DestinationEntry, len(services))
	all := services // of all readings, if they differ
	for pass := 0; ; pass++ {
		for i := range services {
			k := services[i].Key
			if _, ok := dests[k]; ok {
				continue
			}
			var err error
			if c.dests, err = c.dumpDests(op, c.dests[:0], k, passes); err != nil {
				return nil, err
			}
			dests[k] = slices.Clone(c.dests)
		}
		if pass == passes {
			break
		}
		// A service that was deleted before its destinations were read seems to have none, so
		// the services are compared even if they came in one chunk.
		before := services
		if services, err = c.dumpServices(op); err != nil {
			return nil, err
		}
		if slices.EqualFunc(before, services, func(a, b ServiceEntry) bool { return a.Key == b.Key }) {
			break
		}
		all = unique(slices.Concat(all, services), serviceKey, Key.Compare)
		if pass+1 == passes {
			services = all
		}
	}
	for i := range services {
		services[i].Destinations = dests[services[i].Key]
	}
	return services, nil
}

// dumpServices reads the services without destinations, in the kernel's order, without duplicates.
func (c *Client) dumpServices(op *operation) ([]ServiceEntry, error) {
	var services []ServiceEntry
	c.reads.Add(1)
	c.begin(cmdGetService, unix.NLM_F_DUMP)
	_, err := c.exchange(op, c.collectServices(&services))
	if err != nil {
		return nil, err
	}
	return unique(services, serviceKey, Key.Compare), nil
}

func serviceKey(s *ServiceEntry) Key { return s.Key }

func destKey(d *DestinationEntry) DestKey { return d.DestKey }

// dumpDests reads the destinations of a service and appends them to list; there are none if the service
// is missing (the kernel does not tell).
func (c *Client) dumpDests(op *operation, list []DestinationEntry, k Key, passes int) ([]DestinationEntry, error) {
	start := len(list)
	var before, all []DestinationEntry // the last reading, and those before it
	for pass := 0; ; pass++ {
		list = list[:start]
		datagrams, err := c.exchangeDests(op, k, func(d *DestinationEntry) {
			if len(list) == cap(list) { // append alone would move a long list some twenty times
				list = slices.Grow(list, max(16, len(list)))
			}
			list = append(list, *d)
		})
		if err != nil || datagrams <= 1 {
			return list, err
		}
		now := unique(list[start:], destKey, DestKey.Compare)
		list = list[:start+len(now)]
		switch {
		case pass > 0 && slices.EqualFunc(before, now, func(a, b DestinationEntry) bool { return a.DestKey == b.DestKey }):
			return list, nil
		case pass == passes && pass > 0:
			return append(list[:start], unique(slices.Concat(all, before, now), destKey, DestKey.Compare)...), nil
		case pass == passes:
			return list, nil
		}
		all = append(all, before...)
		before = append(before[:0], now...)
	}
}

// exchangeDests asks for the destinations of a service, and returns the number of datagrams that they took. The
// memory of a destination is used for the next one.
func (c *Client) exchangeDests(op *operation, k Key, each func(*DestinationEntry)) (datagrams int, err error) {
	c.reads.Add(1)
	c.begin(cmdGetDest, unix.NLM_F_DUMP)
	nest := len(c.out)
	c.out = appendNest(c.out, attrService)
	c.out = appendServiceKey(c.out, k)
	endNest(c.out, nest)
	var d DestinationEntry
	return c.exchange(op, func(_ uint8, data []byte) (err error) {
		for it := attrs(data); it.next(); {
			if it.typ != attrDest {
				continue
			}
			if d, err = decodeDest(it.value, k.Family); err != nil {
				return err
			}
			each(&d)
		}
		return nil
	})
}

// unique removes all but the last entry of each key, in place. As a rule there is nothing to remove,
// and often the kernel's order is that of the keys or its reverse, which is seen without memory.
func unique[E any, K comparable](entries []E, key func(*E) K, compare func(a, b K) int) []E {
	ascending, descending := true, true
	for i := 1; i < len(entries) && (ascending || descending); i++ {
		c := compare(key(&entries[i-1]), key(&entries[i]))
		ascending, descending = ascending && c < 0, descending && c > 0
	}
	if ascending || descending {
		return entries
	}
	seen := make(map[K]int, len(entries))
	kept := entries[:0]
	for i := range entries {
		k := key(&entries[i])
		if j, ok := seen[k]; ok {
			kept[j] = entries[i]
			continue
		}
		seen[k] = len(kept)
		kept = append(kept, entries[i])
	}
	return kept
}
