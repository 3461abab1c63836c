package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/web"
)

func (a *app) webCommand() *cli.Command {
	return &cli.Command{
		Name: "web", Usage: "show snapshots in a browser",
		Description: `Prints an address, and shows the snapshots there until Ctrl-C or SIGTERM ends it: folders, a first look at files, search, and what
is to be saved, as it is, as zip or as tar. It only reads. The address has a token: whoever has it sees everything.

Examples:

  wtsnap web
  wtsnap web --instance production --listen 127.0.0.1:9000

From another machine, by SSH: ssh -L 8421:127.0.0.1:8421 SERVER wtsnap web`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", EnvVars: []string{"WTSNAP_WEB_LISTEN"}, Value: "127.0.0.1:8421",
				Usage: "answer at `ADDRESS`; port 0 takes a free one"},
		},
		Action: a.action(a.web),
	}
}

type webDoc struct {
	Address string `json:"address"` // without the token
	Errors  int    `json:"errors"`
}

func (a *app) web(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	l, err := net.Listen("tcp", c.String("listen"))
	if err != nil {
		return usagef("--listen 127.0.0.1:0 takes a free port", "--listen: %v", err)
	}
	doc := &webDoc{Address: "http://" + l.Addr().String() + "/"}
	token := web.NewToken()
	handler, err := web.Handler(r, web.Options{Filter: snapshot.Filter{Instance: a.g.instance}, Name: shownRepo(a.g.repo), Token: token, Trouble: func(err error) {
		a.mu.Lock()
		doc.Errors++
		a.mu.Unlock()
		a.warn(message(err))
	}})
	if err != nil {
		return err
	}
	if host, ok := l.Addr().(*net.TCPAddr); ok && !host.IP.IsLoopback() {
		a.warn("other machines reach this address, and what goes over the network is not encrypted")
	}
	a.say("open " + doc.Address + "?token=" + token + " in a browser; Ctrl-C ends it")
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return a.ctx }}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err = <-ended:
	case <-a.ctx.Done():
		_ = server.Close() // ends what is being saved
		err = <-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering at %s: %w", doc.Address, err)
	}
	a.done(doc, nil)
	return nil
}
