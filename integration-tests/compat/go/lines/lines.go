// Package lines is what the Go clients of compat/ share: JSON lines out, records in, and which offsets a member
// commits. The events of a member and the steps of an administrator are described in integration-tests/src/groups.rs
// and admin.rs.
package lines

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Record is one record as it goes in and comes out; nil stands for null.
type Record struct {
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   [][2]*string `json:"headers"`
	Partition *int32       `json:"partition,omitempty"`
	Offset    *int64       `json:"offset,omitempty"`
	Timestamp *int64       `json:"timestamp,omitempty"`
}

// Acknowledgement tells where the record of an input line went.
type Acknowledgement struct {
	Line      int   `json:"line"`
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
}

// BytesOf and TextOf keep null and empty apart.
func BytesOf(text *string) []byte {
	if text == nil {
		return nil
	}
	return []byte(*text)
}

func TextOf(data []byte) *string {
	if data == nil {
		return nil
	}
	text := string(data)
	return &text
}

// Fail ends the program.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

var out = struct {
	sync.Mutex
	*bufio.Writer
}{Writer: bufio.NewWriter(os.Stdout)}

// Put prints one line and leaves it in the buffer until Flush.
func Put(answer any) {
	line, err := json.Marshal(answer)
	if err != nil {
		Fail(err)
	}
	out.Lock()
	defer out.Unlock()
	out.Write(append(line, '\n'))
}

// Flush prints what Put left.
func Flush() {
	out.Lock()
	defer out.Unlock()
	if err := out.Flush(); err != nil {
		Fail(err)
	}
}

// Event prints one event at once, stamped in microseconds so that the events of all members can be put in order.
func Event(name string, parts map[string]any) {
	line := map[string]any{"event": name, "at": time.Now().UnixMicro()}
	for part, value := range parts {
		line[part] = value
	}
	Put(line)
	Flush()
}

// Read prints the event of one record.
func Read(partition int32, offset int64, key, value []byte) {
	Event("record", map[string]any{
		"partition": partition, "offset": offset, "key": TextOf(key), "value": TextOf(value),
	})
}

// Records reads standard input.
func Records() ([]Record, error) {
	var records []Record
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 4<<20)
	for input.Scan() {
		var record Record
		if err := json.Unmarshal(input.Bytes(), &record); err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, input.Err()
}

// Terminated is closed by SIGTERM, which asks a member to leave.
func Terminated() <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	terminated := make(chan struct{})
	go func() {
		<-signals
		close(terminated)
	}()
	return terminated
}

// Commits knows what is to be committed: after every record ("each"), never ("none"), or up to the first so many
// records read.
type Commits struct {
	mutex      sync.Mutex
	left       int
	due        map[int32]int64
	committing sync.Mutex
}

// NewCommits understands the argument COMMIT.
func NewCommits(setting string) (*Commits, error) {
	commits := &Commits{due: map[int32]int64{}}
	switch setting {
	case "each":
		commits.left = math.MaxInt
	case "none":
	default:
		left, err := strconv.Atoi(setting)
		if err != nil {
			return nil, err
		}
		commits.left = left
	}
	return commits, nil
}

// Read notes a record that was read.
func (c *Commits) Read(partition int32, offset int64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.left > 0 {
		c.left--
		c.due[partition] = offset + 1
	}
}

// Commit hands over partitions and their next offsets that have not been committed yet, if there are any, and prints
// the events of the commit. One commit ends before the next begins, so that no offset goes back. A commit fails when
// the group has moved on: what was read comes again to whoever has the partition now.
func (c *Commits) Commit(commit func(due map[int32]int64) error) {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.mutex.Lock()
	due := c.due
	c.due = map[int32]int64{}
	c.mutex.Unlock()
	if len(due) == 0 {
		return
	}
	if err := commit(due); err != nil {
		fmt.Fprintln(os.Stderr, "not committed:", err)
		return
	}
	for partition, offset := range due {
		Event("committed", map[string]any{"partition": partition, "offset": offset})
	}
}

// Steps runs an administrator's steps, name or name=argument,..., and prints what each answers.
func Steps(steps []string, step func(name string, args []string) (map[string]any, error)) error {
	for _, text := range steps {
		name, given, _ := strings.Cut(text, "=")
		answer, err := step(name, strings.Split(given, ","))
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		line := map[string]any{"step": name}
		for part, value := range answer {
			line[part] = value
		}
		Put(line)
		Flush()
	}
	return nil
}

// Number understands an argument that is a number.
func Number(text string) int32 {
	number, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		Fail(err)
	}
	return int32(number)
}
