package main

import (
	"os"
	"testing"
)

// With DROVER_TEST_MAIN in its environment the test is the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("DROVER_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}
