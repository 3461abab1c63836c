package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	events := `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: no server here\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1: wrong\n"}
{"Action":"run","Package":"r","Test":"TestC"}
{"Action":"output","Package":"r","Test":"TestC","Output":"    c_test.go:1: bad\n"}
{"Action":"fail","Package":"r","Test":"TestC"}
{"Action":"run","Package":"r","Test":"TestD"}
{"Action":"output","Package":"r","Test":"TestD","Output":"panic: gone\n"}
{"Action":"output","Package":"r","Output":"FAIL\tr\t0.1s\n"}
{"Action":"fail","Package":"r"}
go: something else
`
	want := `skip	p TestB: b_test.go:1: no server here
ok  	p	0.1s
q.go:1: wrong
    c_test.go:1: bad
FAIL	r	0.1s
panic: gone
go: something else
1 tests passed, 1 skipped, 1 failed
`
	var b strings.Builder
	if err := report(&b, strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
