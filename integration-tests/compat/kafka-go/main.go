// Produces, joins groups and administrates with kafka-go, JSON lines in and out.
//
//	client produce BOOTSTRAP TOPIC [acks=1|all] [codec=gzip|snappy|lz4|zstd]
//	client member BOOTSTRAP TOPIC GROUP COMMIT                      COMMIT: each, none, or a number of records
//	client admin BOOTSTRAP STEP ...                                 STEP: name or name=argument,...
//
// Without settings the writer runs with its defaults: acks=0, for which no offset is known (-1).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"ottla/compat/go/lines"
)

const patience = 30 * time.Second

func main() {
	if len(os.Args) < 4 {
		lines.Fail(errors.New("usage: client produce|member|admin BOOTSTRAP ..."))
	}
	bootstrap, rest := os.Args[2], os.Args[3:]
	var err error
	switch os.Args[1] {
	case "produce":
		err = produce(bootstrap, rest[0], rest[1:])
	case "member":
		err = member(bootstrap, rest)
	case "admin":
		err = administrate(bootstrap, rest)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		lines.Fail(err)
	}
	lines.Flush()
}

var codecs = map[string]kafka.Compression{
	"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

func produce(bootstrap, topic string, settings []string) error {
	var failed error
	writer := &kafka.Writer{
		Addr: kafka.TCP(bootstrap), Topic: topic, AllowAutoTopicCreation: true,
		// The default balancer goes round; a key shall stay in its partition.
		Balancer: &kafka.Hash{},
	}
	placed := false
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		codec, known := codecs[value]
		switch {
		case setting == "acks=all":
			writer.RequiredAcks, placed = kafka.RequireAll, true
		case setting == "acks=1":
			writer.RequiredAcks, placed = kafka.RequireOne, true
		case name == "codec" && known:
			writer.Compression = codec
		default:
			return fmt.Errorf("unknown setting %q", setting)
		}
	}
	writer.Completion = func(messages []kafka.Message, err error) {
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		for _, message := range messages {
			offset := int64(-1)
			if placed {
				offset = message.Offset
			}
			lines.Put(lines.Acknowledgement{
				Line: message.WriterData.(int), Partition: int32(message.Partition), Offset: offset,
			})
		}
	}
	records, err := lines.Records()
	if err != nil {
		return err
	}
	var messages []kafka.Message
	for line, record := range records {
		messages = append(messages, kafka.Message{
			Key: lines.BytesOf(record.Key), Value: lines.BytesOf(record.Value), WriterData: line,
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// The writer gives up on a topic that is being created: its own advice is to try again.
	for {
		err := writer.WriteMessages(ctx, messages...)
		if err == nil || !errors.Is(err, kafka.UnknownTopicOrPartition) && !errors.Is(err, kafka.LeaderNotAvailable) {
			return errors.Join(err, writer.Close(), failed)
		}
	}
}

func member(bootstrap string, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: client member BOOTSTRAP TOPIC GROUP COMMIT")
	}
	topic := args[0]
	commits, err := lines.NewCommits(args[2])
	if err != nil {
		return err
	}
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: args[1], Brokers: []string{bootstrap}, Topics: []string{topic},
		SessionTimeout: 6 * time.Second, HeartbeatInterval: 500 * time.Millisecond,
		JoinGroupBackoff: 500 * time.Millisecond, StartOffset: kafka.FirstOffset,
	})
	if err != nil {
		return err
	}
	terminated := lines.Terminated()
	closed := make(chan error)
	go func() {
		<-terminated
		lines.Event("leaving", nil)
		closed <- group.Close()
	}()
	for {
		generation, err := group.Next(context.Background())
		if errors.Is(err, kafka.ErrGroupClosed) {
			break
		}
		if err != nil {
			// Said while the broker is away; the group joins again by itself.
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		generation.Start(func(ctx context.Context) { readGeneration(ctx, bootstrap, topic, generation, commits) })
	}
	if err := <-closed; err != nil {
		return err
	}
	lines.Event("left", nil)
	return nil
}

// readGeneration reads the member's partitions until the generation ends.
func readGeneration(ctx context.Context, bootstrap, topic string, generation *kafka.Generation, commits *lines.Commits) {
	assigned := generation.Assignments[topic]
	partitions := []int{}
	for _, each := range assigned {
		partitions = append(partitions, each.ID)
	}
	lines.Event("assigned", map[string]any{"partitions": partitions})
	var readers sync.WaitGroup
	for _, each := range assigned {
		readers.Go(func() {
			if err := read(ctx, bootstrap, topic, each, generation, commits); ctx.Err() == nil {
				lines.Fail(err)
			}
		})
	}
	readers.Wait()
	<-ctx.Done()
	lines.Event("revoked", map[string]any{"partitions": partitions})
}

func read(ctx context.Context, bootstrap, topic string, from kafka.PartitionAssignment, generation *kafka.Generation, commits *lines.Commits) error {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{bootstrap}, Topic: topic, Partition: from.ID, MaxWait: 500 * time.Millisecond,
	})
	defer reader.Close()
	if err := reader.SetOffset(from.Offset); err != nil {
		return err
	}
	for {
		message, err := reader.ReadMessage(ctx)
		if err != nil {
			return err
		}
		lines.Read(int32(message.Partition), message.Offset, message.Key, message.Value)
		commits.Read(int32(message.Partition), message.Offset)
		commits.Commit(func(due map[int32]int64) error {
			offsets := map[int]int64{}
			for partition, offset := range due {
				offsets[int(partition)] = offset
			}
			return generation.CommitOffsets(map[string]map[int]int64{topic: offsets})
		})
	}
}
