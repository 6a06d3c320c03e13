// Prints every address that Go finds for the name in the first argument, one per line; exit 2 when there is none.
// GODEBUG=netdns=go or netdns=cgo chooses the resolver.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		os.Exit(1)
	}
	addresses, err := net.DefaultResolver.LookupIPAddr(context.Background(), os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, address := range addresses {
		fmt.Println(address.String())
	}
}
