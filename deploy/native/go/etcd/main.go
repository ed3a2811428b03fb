// Command etcd is the etcd server as a library user starts it: the module's own
// main package lives outside the published server module.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
