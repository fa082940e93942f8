// go - every item of the Concurrency table in Go.   usage: go-peer ITEM WORKERS
//
// The counts are those of bench.h. Change both or neither.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	spawnAwait   = 500000
	spawnMany    = 100000
	spawnBatches = 5
	fibNumber    = 32
	fibResult    = 2178309
	roundTrips   = 500000
	values       = 2000000
	capacity     = 128
	mpmcTasks    = 4
	defaults     = 2000000
	yields       = 1000000
	parkedTasks  = 1000000
	skynetLeaves = 1000000
	skynetWays   = 10
	skynetSum    = 499999500000
	sleeps       = 100000
	sleepSteps   = 50
	mutexTasks   = 4
	locks        = 2000000
	connections  = 64
	requests     = 200000
)

func receives(cases int) int { return 4000000 / (cases + 6) }

func printNs(start time.Time, operations float64) {
	fmt.Printf("%.2f\n", float64(time.Since(start).Nanoseconds())/operations)
}

func require(claim bool, what string) {
	if !claim {
		fmt.Fprintln(os.Stderr, "bench: wrong result:", what)
		os.Exit(1)
	}
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) * 1e-9
}

func resident() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	return pages * float64(os.Getpagesize())
}

// Awaiting one goroutine is a receive from a channel that every goroutine here sends on.
func spawnAndAwait(count int) {
	done := make(chan struct{})
	for i := 0; i < count; i++ {
		go func() { done <- struct{}{} }()
		<-done
	}
}

func measureSpawnAwait() {
	spawnAndAwait(spawnAwait / 10)
	start := time.Now()
	spawnAndAwait(spawnAwait)
	printNs(start, spawnAwait)
}

// A WaitGroup, because a channel for each goroutine measured a third slower.
func spawnAll() {
	var all sync.WaitGroup
	all.Add(spawnMany)
	for i := 0; i < spawnMany; i++ {
		go func() { all.Done() }()
	}
	all.Wait()
}

func measureSpawnMany() {
	spawnAll()
	start := time.Now()
	for i := 0; i < spawnBatches; i++ {
		spawnAll()
	}
	printNs(start, spawnMany*spawnBatches)
}

func fib(n int) int {
	if n < 2 {
		return n
	}
	var child int
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		child = fib(n - 1)
		wait.Done()
	}()
	own := fib(n - 2)
	wait.Wait()
	return child + own
}

func measureFib() {
	fib(20)
	start := time.Now()
	result := fib(fibNumber)
	fmt.Printf("%.4g\n", time.Since(start).Seconds())
	require(result == fibResult, "fib")
}

func measurePingpong() {
	there, back := make(chan uint64), make(chan uint64)
	go func() {
		for i := 0; i < roundTrips; i++ {
			back <- <-there
		}
	}()
	start := time.Now()
	sum := uint64(0)
	for i := 0; i < roundTrips; i++ {
		there <- 1
		sum += <-back
	}
	printNs(start, 2*roundTrips)
	require(sum == roundTrips, "pingpong")
}

func transfer(pairs int) {
	c := make(chan uint64, capacity)
	sums := make(chan uint64, pairs)
	each := values / pairs
	start := time.Now()
	for i := 0; i < pairs; i++ {
		go func() {
			for k := 0; k < each; k++ {
				c <- 1
			}
		}()
		go func() {
			sum := uint64(0)
			for k := 0; k < each; k++ {
				sum += <-c
			}
			sums <- sum
		}()
	}
	total := uint64(0)
	for i := 0; i < pairs; i++ {
		total += <-sums
	}
	printNs(start, values)
	require(total == values, "transfer")
}

// One sender goes round the channels, so that about every other select finds nothing and waits.
func measureSelect(cases int, choose func(c []chan uint64) uint64) {
	c := make([]chan uint64, cases)
	for i := range c {
		c[i] = make(chan uint64)
	}
	count := receives(cases)
	go func() {
		for i := 0; i < count; i++ {
			c[i%cases] <- 1
		}
	}()
	start := time.Now()
	sum := uint64(0)
	for i := 0; i < count; i++ {
		sum += choose(c)
	}
	printNs(start, float64(count))
	require(sum == uint64(count), "select")
}

func measureSelectDefault() {
	a, b := make(chan uint64), make(chan uint64)
	missed := 0
	start := time.Now()
	for i := 0; i < defaults; i++ {
		select {
		case <-a:
		case <-b:
		default:
			missed++
		}
	}
	printNs(start, defaults)
	require(missed == defaults, "select_default")
}

func measureYield() {
	var both sync.WaitGroup
	both.Add(2)
	turn := func() {
		for i := 0; i < yields; i++ {
			runtime.Gosched()
		}
		both.Done()
	}
	start := time.Now()
	go turn()
	go turn()
	both.Wait()
	printNs(start, 2*yields)
}

// Prints bytes each, seconds to create (until all are parked), seconds to wake and join.
func measureMillion() {
	c := make(chan uint64)
	var reached int64
	var all sync.WaitGroup
	all.Add(parkedTasks)
	before := resident()
	start := time.Now()
	for i := 0; i < parkedTasks; i++ {
		go func() {
			atomic.AddInt64(&reached, 1)
			<-c
			all.Done()
		}()
	}
	for atomic.LoadInt64(&reached) < parkedTasks {
		runtime.Gosched()
	}
	created := time.Since(start).Seconds()
	bytes := (resident() - before) / parkedTasks
	start = time.Now()
	for i := 0; i < parkedTasks; i++ {
		c <- 1
	}
	all.Wait()
	fmt.Printf("%.0f %.4g %.4g\n", bytes, created, time.Since(start).Seconds())
}

func skynet(up chan int64, number, size int64) {
	if size == 1 {
		up <- number
		return
	}
	down := make(chan int64)
	part := size / skynetWays
	for i := int64(0); i < skynetWays; i++ {
		go skynet(down, number+i*part, part)
	}
	sum := int64(0)
	for i := 0; i < skynetWays; i++ {
		sum += <-down
	}
	up <- sum
}

func measureSkynet() {
	up := make(chan int64)
	start := time.Now()
	go skynet(up, 0, skynetLeaves)
	sum := <-up
	fmt.Printf("%.4g\n", time.Since(start).Seconds())
	require(sum == skynetSum, "skynet")
}

func measureSleeps() {
	var all sync.WaitGroup
	all.Add(sleeps)
	before := cpuSeconds()
	for i := 0; i < sleeps; i++ {
		pause := time.Duration(1+i%sleepSteps) * time.Millisecond
		go func() {
			time.Sleep(pause)
			all.Done()
		}()
	}
	all.Wait()
	fmt.Printf("%.4g\n", cpuSeconds()-before)
}

func measureMutex() {
	var lock sync.Mutex
	var all sync.WaitGroup
	count := 0
	all.Add(mutexTasks)
	start := time.Now()
	for i := 0; i < mutexTasks; i++ {
		go func() {
			for k := 0; k < locks; k++ {
				lock.Lock()
				count++
				lock.Unlock()
			}
			all.Done()
		}()
	}
	all.Wait()
	printNs(start, mutexTasks*locks)
	require(count == mutexTasks*locks, "mutex")
}

// The client is echo.c's, which stands beside this program.
func measureEcho() {
	door, err := net.Listen("tcp", "127.0.0.1:0")
	require(err == nil, "listen")
	port := strconv.Itoa(door.Addr().(*net.TCPAddr).Port)
	client := exec.Command(filepath.Join(filepath.Dir(os.Args[0]), "echo"), "client", port)
	require(client.Start() == nil, "the client did not start")
	var taken []net.Conn
	for len(taken) < connections {
		c, err := door.Accept()
		require(err == nil, "accept")
		taken = append(taken, c)
	}
	before := cpuSeconds()
	var all sync.WaitGroup
	for _, c := range taken {
		all.Add(1)
		go func(c net.Conn) {
			defer all.Done()
			defer c.Close()
			request := make([]byte, 64)
			for {
				n, err := c.Read(request)
				if err != nil {
					return
				}
				if _, err = c.Write(request[:n]); err != nil {
					return
				}
			}
		}(c)
	}
	all.Wait()
	used := cpuSeconds() - before
	require(client.Wait() == nil, "the client failed")
	fmt.Printf("%.4g\n", used*1e6/requests)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go-peer ITEM WORKERS")
		os.Exit(2)
	}
	workers, _ := strconv.Atoi(os.Args[2])
	runtime.GOMAXPROCS(workers)
	items := map[string]func(){
		"spawn_await":    measureSpawnAwait,
		"spawn_many":     measureSpawnMany,
		"fib":            measureFib,
		"pingpong":       measurePingpong,
		"spsc":           func() { transfer(1) },
		"mpmc":           func() { transfer(mpmcTasks) },
		"select2":        func() { measureSelect(2, choose2) },
		"select8":        func() { measureSelect(8, choose8) },
		"select64":       func() { measureSelect(64, choose64) },
		"select_default": measureSelectDefault,
		"yield":          measureYield,
		"million":        measureMillion,
		"skynet":         measureSkynet,
		"sleeps":         measureSleeps,
		"mutex":          measureMutex,
		"echo":           measureEcho,
	}
	measure, known := items[os.Args[1]]
	if !known {
		fmt.Fprintln(os.Stderr, "bench: no item", os.Args[1], "here")
		os.Exit(3)
	}
	measure()
}

func choose2(c []chan uint64) (v uint64) {
	select {
	case v = <-c[0]:
	case v = <-c[1]:
	}
	return v
}

func choose8(c []chan uint64) (v uint64) {
	select {
	case v = <-c[0]:
	case v = <-c[1]:
	case v = <-c[2]:
	case v = <-c[3]:
	case v = <-c[4]:
	case v = <-c[5]:
	case v = <-c[6]:
	case v = <-c[7]:
	}
	return v
}

func choose64(c []chan uint64) (v uint64) {
	select {
	case v = <-c[0]:
	case v = <-c[1]:
	case v = <-c[2]:
	case v = <-c[3]:
	case v = <-c[4]:
	case v = <-c[5]:
	case v = <-c[6]:
	case v = <-c[7]:
	case v = <-c[8]:
	case v = <-c[9]:
	case v = <-c[10]:
	case v = <-c[11]:
	case v = <-c[12]:
	case v = <-c[13]:
	case v = <-c[14]:
	case v = <-c[15]:
	case v = <-c[16]:
	case v = <-c[17]:
	case v = <-c[18]:
	case v = <-c[19]:
	case v = <-c[20]:
	case v = <-c[21]:
	case v = <-c[22]:
	case v = <-c[23]:
	case v = <-c[24]:
	case v = <-c[25]:
	case v = <-c[26]:
	case v = <-c[27]:
	case v = <-c[28]:
	case v = <-c[29]:
	case v = <-c[30]:
	case v = <-c[31]:
	case v = <-c[32]:
	case v = <-c[33]:
	case v = <-c[34]:
	case v = <-c[35]:
	case v = <-c[36]:
	case v = <-c[37]:
	case v = <-c[38]:
	case v = <-c[39]:
	case v = <-c[40]:
	case v = <-c[41]:
	case v = <-c[42]:
	case v = <-c[43]:
	case v = <-c[44]:
	case v = <-c[45]:
	case v = <-c[46]:
	case v = <-c[47]:
	case v = <-c[48]:
	case v = <-c[49]:
	case v = <-c[50]:
	case v = <-c[51]:
	case v = <-c[52]:
	case v = <-c[53]:
	case v = <-c[54]:
	case v = <-c[55]:
	case v = <-c[56]:
	case v = <-c[57]:
	case v = <-c[58]:
	case v = <-c[59]:
	case v = <-c[60]:
	case v = <-c[61]:
	case v = <-c[62]:
	case v = <-c[63]:
	}
	return v
}
