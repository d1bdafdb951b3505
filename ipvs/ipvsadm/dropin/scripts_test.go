package dropin

import (
	"errors"
	"strings"
	"testing"
)

// The name of the program says which of the three it is.
func TestMainByName(t *testing.T) {
	for _, c := range []struct {
		name, arg string
		status    int
		want      string
	}{
		{"/usr/local/sbin/drover-ipvsadm", "-v", 0, "ipvsadm v1.31 "},
		{"ipvsadm", "-v", 0, "ipvsadm v1.31 "},
		{"/usr/local/sbin/ipvsadm-save", "-v", 1, "ipvsadm-save: "},
	} {
		var out, errs strings.Builder
		status := Main(c.name, []string{c.name, c.arg}, strings.NewReader(""), &out, &errs)
		if text := out.String() + errs.String(); status != c.status || !strings.HasPrefix(text, c.want) {
			t.Errorf("%s %s: status %d, %q", c.name, c.arg, status, text)
		}
	}
	var out, errs strings.Builder
	if Main("ipvsadm-restore", []string{"ipvsadm-restore"}, badReader{}, &out, &errs); !strings.Contains(errs.String(), "failed to read rules: torn") {
		t.Errorf("ipvsadm-restore does not read: %q %q", out.String(), errs.String())
	}
}

type badReader struct{}

func (badReader) Read([]byte) (int, error) { return 0, errors.New("torn") }
