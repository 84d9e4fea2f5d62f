// Produces, joins groups and administrates with sarama, JSON lines in and out.
//
//	client produce BOOTSTRAP TOPIC [version=2.0.0] [codec=none|gzip|snappy|lz4|zstd] [idempotent=true]
//	client member BOOTSTRAP TOPIC GROUP COMMIT [version=2.0.0]      COMMIT: each, none, or a number of records
//	client admin BOOTSTRAP [version=2.0.0] STEP ...                 STEP: name or name=argument,...
//
// Without settings the client runs with its defaults; version is that of the protocol it may use.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"ottla/compat/go/lines"
)

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

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

func configure(settings []string) (*sarama.Config, error) {
	config := sarama.NewConfig()
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		codec, known := codecs[value]
		switch {
		case name == "version":
			version, err := sarama.ParseKafkaVersion(value)
			if err != nil {
				return nil, err
			}
			config.Version = version
		case name == "codec" && known:
			config.Producer.Compression = codec
		case setting == "idempotent=true":
			// What the client demands beside it.
			config.Producer.Idempotent = true
			config.Producer.RequiredAcks = sarama.WaitForAll
			config.Net.MaxOpenRequests = 1
		default:
			return nil, fmt.Errorf("unknown setting %q", setting)
		}
	}
	return config, nil
}

func produce(bootstrap, topic string, settings []string) error {
	config, err := configure(settings)
	if err != nil {
		return err
	}
	records, err := lines.Records()
	if err != nil {
		return err
	}
	config.Producer.Return.Successes = true
	producer, err := sarama.NewAsyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	go func() {
		for line, record := range records {
			message := &sarama.ProducerMessage{Topic: topic, Metadata: line}
			message.Key, message.Value = encoder(record.Key), encoder(record.Value)
			producer.Input() <- message
		}
	}()
	for range records {
		select {
		case message := <-producer.Successes():
			lines.Put(lines.Acknowledgement{
				Line: message.Metadata.(int), Partition: message.Partition, Offset: message.Offset,
			})
		case failed := <-producer.Errors():
			return failed
		}
	}
	return producer.Close()
}

// encoder keeps null null.
func encoder(text *string) sarama.Encoder {
	if text == nil {
		return nil
	}
	return sarama.StringEncoder(*text)
}

// handler prints what happens to one member.
type handler struct {
	topic   string
	group   string
	commits *lines.Commits
	// Asked for what was committed.
	client sarama.Client
}

func (h handler) tell(event string, session sarama.ConsumerGroupSession) error {
	lines.Event(event, map[string]any{"partitions": append([]int32{}, session.Claims()[h.topic]...)})
	return nil
}

func (h handler) Setup(session sarama.ConsumerGroupSession) error { return h.tell("assigned", session) }

func (h handler) Cleanup(session sarama.ConsumerGroupSession) error {
	return h.tell("revoked", session)
}

func (h handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		lines.Read(message.Partition, message.Offset, message.Key, message.Value)
		h.commits.Read(message.Partition, message.Offset)
		if len(claim.Messages()) > 0 {
			continue
		}
		h.commits.Commit(func(due map[int32]int64) error {
			for partition, offset := range due {
				session.MarkOffset(h.topic, partition, offset, "")
			}
			return h.commit(session, due)
		})
	}
	return nil
}

// commit commits what is marked until the broker has it. The client does not say whether a commit succeeded, and makes one
// that failed again with the next one only.
func (h handler) commit(session sarama.ConsumerGroupSession, due map[int32]int64) error {
	for {
		session.Commit()
		err := h.check(due)
		if err == nil {
			return nil
		}
		select {
		case <-session.Context().Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// check fails unless the broker has these offsets, or later ones.
func (h handler) check(due map[int32]int64) error {
	coordinator, err := h.client.Coordinator(h.group)
	if err != nil {
		return err
	}
	request := &sarama.OffsetFetchRequest{Version: 1, ConsumerGroup: h.group}
	for partition := range due {
		request.AddPartition(h.topic, partition)
	}
	response, err := coordinator.FetchOffset(request)
	if err != nil {
		// It was restarted: the next look opens a new connection.
		_ = coordinator.Close()
		return err
	}
	for partition, offset := range due {
		block := response.GetBlock(h.topic, partition)
		if block == nil || block.Err != sarama.ErrNoError || block.Offset < offset {
			return fmt.Errorf("partition %d: wanted %d, the broker has %+v", partition, offset, block)
		}
	}
	return nil
}

func member(bootstrap string, args []string) error {
	if len(args) < 3 {
		return errors.New("usage: client member BOOTSTRAP TOPIC GROUP COMMIT [setting]")
	}
	commits, err := lines.NewCommits(args[2])
	if err != nil {
		return err
	}
	config, err := configure(args[3:])
	if err != nil {
		return err
	}
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	// A commit waits behind the fetch that is on its way on the same connection.
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	config.Consumer.Group.Rebalance.Retry.Backoff = 200 * time.Millisecond
	config.Consumer.Group.Session.Timeout = 6 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	client, err := sarama.NewClient([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer client.Close()
	group, err := sarama.NewConsumerGroup([]string{bootstrap}, args[1], config)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	terminated := lines.Terminated()
	go func() {
		<-terminated
		lines.Event("leaving", nil)
		stop()
	}()
	for ctx.Err() == nil {
		// Returns at every rebalance, and with an error while the broker is away.
		if err := group.Consume(ctx, []string{args[0]}, handler{args[0], args[1], commits, client}); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if err := group.Close(); err != nil {
		return err
	}
	lines.Event("left", nil)
	return nil
}
