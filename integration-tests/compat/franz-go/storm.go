package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"ottla/compat/go/lines"
)

// storm reads as part of a group while members and broker die. What it reads is told in runs of offsets, each with the
// generation it was read in, and every run is committed; a commit that fails is read again by whoever comes next.
func storm(bootstrap, topic string, rest []string) error {
	if len(rest) != 1 {
		return errors.New("usage: client storm BOOTSTRAP TOPIC GROUP")
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumerGroup(rest[0]),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.DisableAutoCommit(),
		// Nobody else gets a partition while its records are on the way to the output.
		kgo.BlockRebalanceOnPoll(),
		kgo.Balancers(kgo.RangeBalancer()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
	)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	terminated := lines.Terminated()
	go func() {
		<-terminated
		stop()
	}()
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 500)
		_, generation := client.GroupMetadata()
		due := map[int32]int64{}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) == 0 {
				return
			}
			first, last := p.Records[0].Offset, p.Records[len(p.Records)-1].Offset
			lines.Event("read", map[string]any{
				"partition": p.Partition, "first": first, "last": last, "count": len(p.Records), "generation": generation,
			})
			due[p.Partition] = last + 1
		})
		if len(due) > 0 {
			if err := commit(client, topic, due); err != nil {
				fmt.Fprintln(os.Stderr, "commit:", err)
			} else {
				for partition, offset := range due {
					lines.Event("committed", map[string]any{"partition": partition, "offset": offset})
				}
			}
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	lines.Event("left", nil)
	return nil
}
