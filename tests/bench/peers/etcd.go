// etcd URL1,URL2,URL3 ...: puts of fresh keys over four connections to the leader. A batch is one
// transaction of that many puts. Prints what bench.h says.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

const (
	patience    = 30 * time.Second // until the cluster serves, and until the last answers are in
	connections = 4
)

type load struct {
	inflight, batch int
	value, prefix   string
	clients         []*clientv3.Client
	from, end       time.Time // what is answered in between counts
}

// What one of the window saw.
type figures struct {
	answered  int             // requests
	latencies []time.Duration // of those that count
	busy      time.Duration   // of all, the part between from and end
}

func die(args ...interface{}) {
	fmt.Fprintln(os.Stderr, append([]interface{}{"etcd:"}, args...)...)
	os.Exit(1)
}

func number(text string) float64 {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		die(err)
	}
	return n
}

func dial(endpoints ...string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 3 * time.Second})
	if err != nil {
		die(err)
	}
	return c
}

// The address of the node that leads.
func findLeader(urls []string) string {
	c := dial(urls...)
	defer c.Close()
	for until := time.Now().Add(patience); time.Now().Before(until); {
		for _, url := range urls {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := c.Status(ctx, url)
			cancel()
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				return url
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	die("no leader")
	return ""
}

// Letters as `replog bench` sends them, so that nobody gains by packing.
func letters(n int) string {
	text, state := make([]byte, n), uint32(1)
	for i := range text {
		state = state*1664525 + 1013904223
		text[i] = byte('a' + (state>>16)%26)
	}
	return string(text)
}

// One request: `batch` keys from number `first` on.
func (l *load) put(c *clientv3.Client, first int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if l.batch == 1 {
		if _, err := c.Put(ctx, l.key(first), l.value); err != nil {
			die(err)
		}
		return
	}
	ops := make([]clientv3.Op, l.batch)
	for i := range ops {
		ops[i] = clientv3.OpPut(l.key(first+i), l.value)
	}
	answer, err := c.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		die(err)
	}
	if !answer.Succeeded || len(answer.Responses) != l.batch {
		die("a transaction did not do all its puts")
	}
}

func (l *load) key(n int) string { return fmt.Sprintf("%s%012d", l.prefix, n) }

// One of the window: its answer starts its next request.
func (l *load) run(window int, f *figures) {
	c := l.clients[window%len(l.clients)]
	for n := window; ; n += l.inflight {
		sent := time.Now()
		l.put(c, n*l.batch)
		now := time.Now()
		f.answered++
		f.busy += overlap(sent, now, l.from, l.end)
		if !now.Before(l.end) {
			return
		}
		if !now.Before(l.from) {
			f.latencies = append(f.latencies, now.Sub(sent))
		}
	}
}

func overlap(begin, end, from, until time.Time) time.Duration {
	if begin.Before(from) {
		begin = from
	}
	if end.After(until) {
		end = until
	}
	if end.Before(begin) {
		return 0
	}
	return end.Sub(begin)
}

func (l *load) runAll() figures {
	each, all := make([]figures, l.inflight), figures{}
	var wg sync.WaitGroup
	for i := range each {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			l.run(i, &each[i])
		}(i)
	}
	wg.Wait()
	for _, f := range each {
		all.answered += f.answered
		all.busy += f.busy
		all.latencies = append(all.latencies, f.latencies...)
	}
	sort.Slice(all.latencies, func(i, j int) bool { return all.latencies[i] < all.latencies[j] })
	return all
}

func (l *load) held() int64 {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := l.clients[0].Get(ctx, l.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		die(err)
	}
	return answer.Count
}

func report(l *load, f figures, seconds float64, held int64) {
	counted := len(f.latencies)
	if counted == 0 {
		die("nothing was answered in time")
	}
	at := func(perMille int) float64 {
		return float64(f.latencies[(counted*perMille+999)/1000-1].Nanoseconds()) / 1000
	}
	rate := float64(counted*l.batch) / seconds
	line, err := json.Marshal(map[string]interface{}{
		"records_per_s": rate, "mib_per_s": rate * float64(len(l.value)) / (1 << 20),
		"p50_us": at(500), "p90_us": at(900), "p99_us": at(990), "p999_us": at(999),
		"max_us": at(1000), "errors": 0, "mean_inflight": f.busy.Seconds() / seconds,
		"answered": f.answered * l.batch, "held": held})
	if err != nil {
		die(err)
	}
	fmt.Println(string(line))
}

func main() {
	if len(os.Args) != 7 {
		die("usage: etcd URL,URL,URL INFLIGHT BATCH SIZE SECONDS WARMUP")
	}
	seconds, warmup := number(os.Args[5]), number(os.Args[6])
	l := &load{inflight: int(number(os.Args[2])), batch: int(number(os.Args[3]))}
	l.value = letters(int(number(os.Args[4])))
	l.prefix = fmt.Sprintf("b%d-", os.Getpid())
	leader := findLeader(strings.Split(os.Args[1], ","))
	for i := 0; i < connections && i < l.inflight; i++ {
		l.clients = append(l.clients, dial(leader))
	}
	l.held() // the connections are up
	l.from = time.Now().Add(time.Duration(warmup * float64(time.Second)))
	l.end = l.from.Add(time.Duration(seconds * float64(time.Second)))
	f := l.runAll()
	report(l, f, seconds, l.held())
}
