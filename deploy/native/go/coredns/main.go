// Command coredns is CoreDNS with the plugins that a throw-away cluster uses.
// The complete one links every cloud's client libraries, which trebles its
// build time.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

// The order in which a query passes the plugins.
func init() {
	dnsserver.Directives = []string{
		"health", "ready", "errors", "cache", "kubernetes", "forward",
	}
}

func main() { coremain.Run() }
