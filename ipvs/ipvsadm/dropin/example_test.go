package dropin_test

import (
	"fmt"
	"strings"

	"github.com/drover-lb/drover/ipvs/ipvsadm/dropin"
)

func ExampleParse() {
	c, err := dropin.Parse([]string{"ipvsadm", "-amt", "192.0.2.10:80", "-r=10.0.0.11:8080"}, &dropin.System{})
	fmt.Println(c.Action, err)
	fmt.Println(c.Change)
	_, err = dropin.Parse([]string{"ipvsadm", "-L", "--stats", "-s", "rr"}, &dropin.System{})
	fmt.Println(err)
	// Output:
	// --add-server <nil>
	// add server 10.0.0.11:8080 to TCP 192.0.2.10:80
	// Illegal 'scheduler' option with the 'list' command
}

func ExampleRules() {
	rules := dropin.NewRules(strings.NewReader("ipvsadm -C\n-A -t 192.0.2.10:80\n"))
	for {
		words, err := rules.Next()
		if err != nil {
			break // io.EOF
		}
		fmt.Printf("%q\n", words)
	}
	// Output:
	// ["-C"]
	// ["-A" "-t" "192.0.2.10:80"]
}
