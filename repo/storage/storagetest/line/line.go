// Package line puts a thin line before a server: a TCP proxy with an answer time and a bandwidth each way, which all
// connections share. It works for whatever speaks TCP, so that other programs can be measured over the same line.
//
// It goes by the clock of the machine, and is for benchmarks. Tests that decide something by time use storagetest.Thin
// under a simulated clock instead.
package line

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Options say what the line is like. The zero value is as good as no line.
type Options struct {
	Latency time.Duration // there and back
	Up      int64         // bytes a second from the clients to the server; 0 for no limit
	Down    int64         // bytes a second from the server to the clients; 0 for no limit
}

// Traffic is what went over the line, payload of TCP only.
type Traffic struct {
	Up, Down    int64 // bytes
	Connections int   // that were made
}

// Sub returns what was added since earlier.
func (t Traffic) Sub(earlier Traffic) Traffic {
	return Traffic{t.Up - earlier.Up, t.Down - earlier.Down, t.Connections - earlier.Connections}
}

// Line is a line to one server.
type Line struct {
	o      Options
	target string
	listen net.Listener
	up     *pipe
	down   *pipe

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	made  int
	over  bool
	wait  sync.WaitGroup
}

// New starts a line from a new port of the loopback interface to target (host:port).
func New(target string, o Options) (*Line, error) {
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Line{o: o, target: target, listen: listen, conns: map[net.Conn]struct{}{},
		up: &pipe{rate: o.Up, delay: o.Latency / 2}, down: &pipe{rate: o.Down, delay: o.Latency / 2}}
	l.wait.Go(l.accept)
	return l, nil
}

// Addr is where clients connect to, host:port.
func (l *Line) Addr() string { return l.listen.Addr().String() }

// Traffic returns what went over the line so far.
func (l *Line) Traffic() Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Traffic{l.up.sum(), l.down.sum(), l.made}
}

// Close cuts all connections and returns when nothing runs any more.
func (l *Line) Close() error {
	l.mu.Lock()
	l.over = true
	for c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	err := l.listen.Close()
	l.wait.Wait()
	return err
}

func (l *Line) accept() {
	for {
		client, err := l.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			l.wait.Go(func() { l.serve(client) })
		}
	}
}

// keep enters a connection for Close; false where the line is closed.
func (l *Line) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		c.Close()
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Line) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *Line) serve(client net.Conn) {
	if !l.keep(client) {
		return
	}
	defer l.drop(client)
	l.mu.Lock()
	l.made++
	l.mu.Unlock()
	server, err := net.Dial("tcp", l.target)
	if err != nil || !l.keep(server) {
		return
	}
	defer l.drop(server)
	// The handshake takes an answer time before anything can be sent.
	from := time.Now().Add(l.o.Latency)
	var both sync.WaitGroup
	both.Go(func() { l.up.copy(server, client, from) })
	both.Go(func() { l.down.copy(client, server, from) })
	both.Wait()
}

// pipe is one direction of the line.
type pipe struct {
	rate  int64
	delay time.Duration

	mu    sync.Mutex
	next  time.Time // when what was taken so far has left
	bytes int64
}

func (p *pipe) sum() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// step is how much leaves at a time: connections take turns with steps.
const step = 16 << 10

// window bounds what is under way in one direction of a connection.
const window = 1 << 20

// parcel is a step under way.
type parcel struct {
	data []byte
	at   time.Time // when it arrives
}

// copy moves the bytes of one connection. What does not fit through the line stays with its sender.
func (p *pipe) copy(to, from net.Conn, start time.Time) {
	under := make(chan parcel, window/step)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range under {
			time.Sleep(time.Until(m.at))
			if len(m.data) == 0 { // the end
				if c, ok := to.(*net.TCPConn); ok {
					_ = c.CloseWrite() // it may be gone
				}
				continue
			}
			if _, err := to.Write(m.data); err != nil {
				from.Close() // the copier notices, and so does the sender
			}
		}
	}()
	time.Sleep(time.Until(start.Add(-p.delay)))
	for {
		buf := make([]byte, step)
		n, err := from.Read(buf)
		if n > 0 {
			left := p.take(int64(n))
			time.Sleep(time.Until(left))
			under <- parcel{buf[:n], left.Add(p.delay)}
		}
		if err != nil {
			under <- parcel{nil, time.Now().Add(p.delay)}
			break
		}
	}
	close(under)
	<-done
}

// take books n bytes and returns when they have left.
func (p *pipe) take(n int64) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += n
	now := time.Now()
	if p.rate <= 0 {
		return now
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return p.next
}
