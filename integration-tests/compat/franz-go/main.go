// Produces and consumes with franz-go, records in and out as JSON lines.
//
//	client produce BOOTSTRAP TOPIC [codec=none|gzip|snappy|lz4|zstd] [idempotent=false]
//	client consume BOOTSTRAP TOPIC PARTITION=START ...     START: an offset, beginning, end, or @timestamp
//	client watermarks BOOTSTRAP TOPIC PARTITION
//	client member BOOTSTRAP TOPIC GROUP COMMIT [balancer=range]     COMMIT: each, none, or a number of records
//	client storm BOOTSTRAP TOPIC GROUP                              see storm.go
//	client admin BOOTSTRAP STEP ...                                 STEP: name or name=argument,...
//
// A record is {"key", "value", "headers": [[name, value]], "partition"?, "timestamp"?}; null stands for null.
// produce reads records from standard input and prints one acknowledgement a line; without settings the client
// runs with its defaults (idempotent, acks from all). consume reads each partition to where it ended at the start.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"ottla/compat/go/lines"
)

const patience = 30 * time.Second

func main() {
	if len(os.Args) < 4 {
		lines.Fail(errors.New("usage: client produce|consume|watermarks|member|admin BOOTSTRAP ..."))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	bootstrap, topic, rest := os.Args[2], os.Args[3], os.Args[4:]
	var err error
	switch os.Args[1] {
	case "produce":
		err = produce(ctx, bootstrap, topic, rest)
	case "consume":
		err = consume(ctx, bootstrap, topic, rest)
	case "watermarks":
		err = watermarks(ctx, bootstrap, topic, rest)
	case "member":
		err = member(bootstrap, topic, rest)
	case "storm":
		err = storm(bootstrap, topic, rest)
	case "admin":
		err = administrate(ctx, bootstrap, os.Args[3:])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		lines.Fail(err)
	}
	lines.Flush()
}

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func produce(ctx context.Context, bootstrap, topic string, settings []string) error {
	records, placed, err := readRecords()
	if err != nil {
		return err
	}
	options := []kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.DefaultProduceTopic(topic), kgo.AllowAutoTopicCreation()}
	if placed {
		options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		codec, known := codecs[value]
		switch {
		case name == "codec" && known:
			options = append(options, kgo.ProducerBatchCompression(codec))
		case setting == "idempotent=false":
			options = append(options, kgo.DisableIdempotentWrite())
		default:
			return fmt.Errorf("unknown setting %q", setting)
		}
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()

	var failed error
	for line, r := range records {
		// Promises run one at a time, on one goroutine, and Flush waits for them.
		client.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("line %d: %w", line, err))
				return
			}
			lines.Put(lines.Acknowledgement{Line: line, Partition: r.Partition, Offset: r.Offset})
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return failed
}

// readRecords reads standard input; placed tells that the records name their partitions.
func readRecords() (records []*kgo.Record, placed bool, err error) {
	given, err := lines.Records()
	for _, given := range given {
		r := &kgo.Record{Key: lines.BytesOf(given.Key), Value: lines.BytesOf(given.Value)}
		for _, header := range given.Headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: *header[0], Value: lines.BytesOf(header[1])})
		}
		if given.Partition != nil {
			r.Partition, placed = *given.Partition, true
		}
		if given.Timestamp != nil {
			r.Timestamp = time.UnixMilli(*given.Timestamp)
		}
		records = append(records, r)
	}
	return records, placed, err
}

func startOffset(start string) (kgo.Offset, error) {
	switch {
	case start == "beginning":
		return kgo.NewOffset().AtStart(), nil
	case start == "end":
		return kgo.NewOffset().AtEnd(), nil
	case strings.HasPrefix(start, "@"):
		milliseconds, err := strconv.ParseInt(start[1:], 10, 64)
		return kgo.NewOffset().AfterMilli(milliseconds), err
	}
	offset, err := strconv.ParseInt(start, 10, 64)
	return kgo.NewOffset().At(offset), err
}

func consume(ctx context.Context, bootstrap, topic string, starts []string) error {
	assigned := map[int32]kgo.Offset{}
	ends := map[int32]int64{}
	for _, text := range starts {
		number, start, _ := strings.Cut(text, "=")
		partition, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			return err
		}
		if assigned[int32(partition)], err = startOffset(start); err != nil {
			return err
		}
		end, err := offsetAt(ctx, bootstrap, topic, int32(partition), -1)
		if err != nil {
			return err
		}
		// Nothing to wait for when the reading starts at the end or the partition is empty.
		if start != "end" && start != strconv.FormatInt(end, 10) && end > 0 {
			ends[int32(partition)] = end
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}),
	)
	if err != nil {
		return err
	}
	defer client.Close()

	for len(ends) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			timestamp := r.Timestamp.UnixMilli()
			headers := [][2]*string{}
			for _, header := range r.Headers {
				headers = append(headers, [2]*string{&header.Key, lines.TextOf(header.Value)})
			}
			lines.Put(lines.Record{
				Key: lines.TextOf(r.Key), Value: lines.TextOf(r.Value), Headers: headers,
				Partition: &r.Partition, Offset: &r.Offset, Timestamp: &timestamp,
			})
			if r.Offset+1 >= ends[r.Partition] {
				delete(ends, r.Partition)
			}
		})
	}
	return nil
}

func watermarks(ctx context.Context, bootstrap, topic string, rest []string) error {
	if len(rest) != 1 {
		return errors.New("usage: client watermarks BOOTSTRAP TOPIC PARTITION")
	}
	partition, err := strconv.ParseInt(rest[0], 10, 32)
	if err != nil {
		return err
	}
	low, err := offsetAt(ctx, bootstrap, topic, int32(partition), -2)
	if err != nil {
		return err
	}
	high, err := offsetAt(ctx, bootstrap, topic, int32(partition), -1)
	if err != nil {
		return err
	}
	lines.Put(map[string]int64{"low": low, "high": high})
	return nil
}

// offsetAt asks ListOffsets; timestamp -1 stands for the end, -2 for the start.
func offsetAt(ctx context.Context, bootstrap, topic string, partition int32, timestamp int64) (int64, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	asked := kmsg.NewListOffsetsRequestTopicPartition()
	asked.Partition, asked.Timestamp = partition, timestamp
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	request.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{asked}}}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return 0, err
	}
	if len(response.Topics) != 1 || len(response.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("ListOffsets answered for %d topics", len(response.Topics))
	}
	answer := response.Topics[0].Partitions[0]
	if answer.ErrorCode != 0 {
		return 0, fmt.Errorf("ListOffsets answered error %d", answer.ErrorCode)
	}
	return answer.Offset, nil
}
