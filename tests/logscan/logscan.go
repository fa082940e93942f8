// logscan.go - the program of examples/logscan.c in Go, as fast as Go lets it be.
//
//	go build -o logscan-go logscan.go && ./logscan-go [file]...
//
// The same plan: main fills chunks that end where a line ends, a goroutine for each counts into
// the tables that the chunk carries, a channel of idle chunks bounds and joins. The tables are the
// same open addressing over the same hash: Go's own map, tried first, was half as fast.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
)

const (
	chunkBytes   = 1 << 20
	maxLineBytes = 1 << 28
)

type row struct {
	name, length    uint64 // in the table's names
	requests, bytes uint64
}

type slot struct {
	hash uint32
	row  uint32 // counted from 1; 0: free
}

type table struct {
	slots []slot // open addressing, a power of two, at least twice the rows
	rows  []row
	names []byte
}

func (t *table) nameOf(r *row) []byte { return t.names[r.name : r.name+r.length] }

func mix(x uint64) uint64 {
	x *= 0x9E3779B97F4A7C15
	return x ^ x>>32
}

func hashOf(name []byte) uint32 {
	hash := uint64(len(name))
	if len(name) < 8 {
		word := uint64(0)
		for _, c := range name {
			word = word<<8 | uint64(c)
		}
		return uint32(mix(hash ^ word))
	}
	last := binary.LittleEndian.Uint64(name[len(name)-8:])
	for ; len(name) > 8; name = name[8:] {
		hash = mix(hash ^ binary.LittleEndian.Uint64(name))
	}
	return uint32(mix(hash ^ last))
}

func (t *table) find(name []byte, hash uint32) *slot {
	mask := uint64(len(t.slots) - 1)
	for i := uint64(hash); ; i++ {
		s := &t.slots[i&mask]
		if s.row == 0 {
			return s
		}
		if s.hash == hash && bytes.Equal(t.nameOf(&t.rows[s.row-1]), name) {
			return s
		}
	}
}

func (t *table) grow() {
	count := 128
	if len(t.slots) > 0 {
		count = 2 * len(t.slots)
	}
	slots := make([]slot, count)
	mask := uint64(count - 1)
	for _, old := range t.slots {
		if old.row == 0 {
			continue
		}
		i := uint64(old.hash)
		for slots[i&mask].row != 0 {
			i++
		}
		slots[i&mask] = old
	}
	t.slots = slots
}

func (t *table) add(name []byte, requests, sent uint64) {
	if len(t.rows)*2 >= len(t.slots) {
		t.grow()
	}
	hash := hashOf(name)
	s := t.find(name, hash)
	if s.row == 0 {
		t.rows = append(t.rows, row{uint64(len(t.names)), uint64(len(name)), 0, 0})
		t.names = append(t.names, name...)
		*s = slot{hash, uint32(len(t.rows))}
	}
	r := &t.rows[s.row-1]
	r.requests += requests
	r.bytes += sent
}

const (
	status = iota
	method
	path
	host
	tables
)

type tally struct {
	tables                 [tables]table
	lines, requests, bytes uint64
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// parseQuoted cuts `METHOD path...` into its two names; nil: it does not read so.
func parseQuoted(quoted []byte) (methodName, pathName []byte) {
	at := 0
	for at < len(quoted) && quoted[at] >= 'A' && quoted[at] <= 'Z' {
		at++
	}
	if at == 0 || at == len(quoted) || quoted[at] != ' ' {
		return nil, nil
	}
	methodName, quoted = quoted[:at], quoted[at+1:]
	for at = 0; at < len(quoted) && quoted[at] != ' ' && quoted[at] != '?'; {
		at++
	}
	if at == 0 {
		return nil, nil
	}
	return methodName, quoted[:at]
}

// parseNumbers reads ` 200 1234` or ` 304 -`, then the end or a space.
func parseNumbers(text []byte) (statusName []byte, sent uint64, ok bool) {
	if len(text) < 6 || text[0] != ' ' || text[1] < '1' || text[1] > '5' || !isDigit(text[2]) ||
		!isDigit(text[3]) || text[4] != ' ' {
		return nil, 0, false
	}
	at := 5
	for at < len(text) && isDigit(text[at]) && at < 20 {
		sent = sent*10 + uint64(text[at]-'0')
		at++
	}
	if at == 5 {
		if text[at] != '-' {
			return nil, 0, false
		}
		at++
	}
	return text[1:4], sent, at == len(text) || text[at] == ' '
}

func (t *tally) line(line []byte) {
	t.lines++
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	quote := bytes.IndexByte(line, '"')
	if quote < 0 {
		return
	}
	hostEnd := bytes.IndexByte(line[:quote], ' ')
	if hostEnd <= 0 {
		return
	}
	hostName, line := line[:hostEnd], line[quote+1:]
	quote = bytes.IndexByte(line, '"')
	if quote < 0 {
		return
	}
	methodName, pathName := parseQuoted(line[:quote])
	statusName, sent, ok := parseNumbers(line[quote+1:])
	if methodName == nil || !ok {
		return
	}
	t.requests++
	t.bytes += sent
	t.tables[status].add(statusName, 1, sent)
	t.tables[method].add(methodName, 1, sent)
	t.tables[path].add(pathName, 1, sent)
	t.tables[host].add(hostName, 1, sent)
}

func (t *tally) merge(from *tally) {
	t.lines += from.lines
	t.requests += from.requests
	t.bytes += from.bytes
	for i := range from.tables {
		part := &from.tables[i]
		for j := range part.rows {
			r := &part.rows[j]
			t.tables[i].add(part.nameOf(r), r.requests, r.bytes)
		}
	}
}

type chunk struct {
	text   []byte
	length int
	tally  tally
}

func (c *chunk) reserve(room int) {
	if len(c.text) < room {
		wider := make([]byte, room)
		copy(wider, c.text[:c.length])
		c.text = wider
	}
}

func (c *chunk) count(idle chan *chunk) {
	text := c.text[:c.length]
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			c.tally.line(text)
			break
		}
		c.tally.line(text[:end])
		text = text[end+1:]
	}
	idle <- c
}

func passLines(full *chunk, idle chan *chunk) (*chunk, error) {
	lines := bytes.LastIndexByte(full.text[:full.length], '\n') + 1
	if lines == 0 {
		if len(full.text) >= maxLineBytes {
			return full, fmt.Errorf("file too large")
		}
		full.reserve(2 * len(full.text))
		return full, nil
	}
	next := <-idle
	rest := full.length - lines
	next.length = 0
	next.reserve(rest + 1)
	next.length = copy(next.text, full.text[lines:full.length])
	full.length = lines
	go full.count(idle)
	return next, nil
}

func scanFile(name string, idle chan *chunk) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	c := <-idle
	c.length = 0
	for err == nil {
		var got int
		got, err = file.Read(c.text[c.length:])
		c.length += got
		if err == nil && c.length == len(c.text) {
			c, err = passLines(c, idle)
		}
	}
	go c.count(idle)
	if err == io.EOF {
		return nil
	}
	return err
}

func (t *table) precedes(a, b *row) bool {
	if a.requests != b.requests {
		return a.requests > b.requests
	}
	return bytes.Compare(t.nameOf(a), t.nameOf(b)) < 0
}

func printTable(out io.Writer, t *table, total *tally, title string, limit int) {
	fmt.Fprintf(out, "\n%12s %16s  %s\n", "requests", "bytes", title)
	requests, sent := total.requests, total.bytes
	for i := 0; i < len(t.rows) && i < limit; i++ {
		first := &t.rows[i]
		for j := i; j < len(t.rows); j++ {
			if t.precedes(&t.rows[j], first) {
				t.rows[j], *first = *first, t.rows[j]
			}
		}
		fmt.Fprintf(out, "%12d %16d  %s\n", first.requests, first.bytes, t.nameOf(first))
		requests -= first.requests
		sent -= first.bytes
	}
	if len(t.rows) > limit {
		fmt.Fprintf(out, "%12d %16d  (%d others)\n", requests, sent, len(t.rows)-limit)
	}
}

func main() {
	files := os.Args[1:]
	if len(files) == 0 {
		files = []string{"examples/sample.log"}
	}
	chunks := runtime.GOMAXPROCS(0) + 1
	idle := make(chan *chunk, chunks)
	for i := 0; i < chunks; i++ {
		idle <- &chunk{text: make([]byte, chunkBytes)}
	}
	for _, name := range files {
		if err := scanFile(name, idle); err != nil {
			fmt.Fprintf(os.Stderr, "logscan: %v\n", err)
			os.Exit(1)
		}
	}
	total := &(<-idle).tally
	for i := 1; i < chunks; i++ {
		total.merge(&(<-idle).tally)
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "%d lines, %d requests, %d bytes sent, %d lines skipped\n",
		total.lines, total.requests, total.bytes, total.lines-total.requests)
	printTable(out, &total.tables[status], total, "status", 20)
	printTable(out, &total.tables[method], total, "method", 20)
	printTable(out, &total.tables[path], total, "path", 10)
	printTable(out, &total.tables[host], total, "host", 10)
	if err := out.Flush(); err != nil {
		fmt.Fprintf(os.Stderr, "logscan: %v\n", err)
		os.Exit(1)
	}
}
