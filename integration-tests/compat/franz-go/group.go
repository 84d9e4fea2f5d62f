package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"ottla/compat/go/lines"
)

// partitionsOf tells the partitions of an assignment as an event.
func partitionsOf(event, topic string) func(context.Context, *kgo.Client, map[string][]int32) {
	return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		lines.Event(event, map[string]any{"partitions": append([]int32{}, partitions[topic]...)})
	}
}

// member reads as part of a group until SIGTERM. Without a setting the balancer is the client's own: cooperative.
func member(bootstrap, topic string, rest []string) error {
	if len(rest) < 2 {
		return errors.New("usage: client member BOOTSTRAP TOPIC GROUP COMMIT [balancer=range]")
	}
	commits, err := lines.NewCommits(rest[1])
	if err != nil {
		return err
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumerGroup(rest[0]),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6 * time.Second),
		kgo.HeartbeatInterval(500 * time.Millisecond),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(partitionsOf("assigned", topic)),
		kgo.OnPartitionsRevoked(partitionsOf("revoked", topic)),
		kgo.OnPartitionsLost(partitionsOf("revoked", topic)),
	}
	for _, setting := range rest[2:] {
		if setting != "balancer=range" {
			return fmt.Errorf("unknown setting %q", setting)
		}
		options = append(options, kgo.Balancers(kgo.RangeBalancer()))
	}
	client, err := kgo.NewClient(options...)
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
		fetches := client.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) {
			lines.Read(r.Partition, r.Offset, r.Key, r.Value)
			commits.Read(r.Partition, r.Offset)
		})
		commits.Commit(func(due map[int32]int64) error { return commit(client, topic, due) })
		client.AllowRebalance()
	}
	lines.Event("leaving", nil)
	client.CloseAllowingRebalance()
	lines.Event("left", nil)
	return nil
}

func commit(client *kgo.Client, topic string, due map[int32]int64) error {
	offsets := map[int32]kgo.EpochOffset{}
	for partition, offset := range due {
		offsets[partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	var failed error
	client.CommitOffsetsSync(context.Background(), map[string]map[int32]kgo.EpochOffset{topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
			failed = err
			if err != nil {
				return
			}
			for _, topic := range answer.Topics {
				for _, partition := range topic.Partitions {
					failed = errors.Join(failed, kerr.ErrorForCode(partition.ErrorCode))
				}
			}
		})
	return failed
}

func configs(described kadm.ResourceConfigs, err error) (map[string]any, error) {
	if err != nil {
		return nil, err
	}
	values := map[string]*string{}
	for _, resource := range described {
		if resource.Err != nil {
			return nil, resource.Err
		}
		for _, entry := range resource.Configs {
			values[entry.Key] = entry.Value
		}
	}
	return map[string]any{"configs": values}, nil
}

func administrate(ctx context.Context, bootstrap string, steps []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	return lines.Steps(steps, func(name string, args []string) (map[string]any, error) {
		return step(ctx, admin, name, args)
	})
}

func step(ctx context.Context, admin *kadm.Client, name string, args []string) (map[string]any, error) {
	switch name {
	case "create-topic":
		_, err := admin.CreateTopic(ctx, lines.Number(args[1]), -1, nil, args[0])
		return nil, err
	case "list-topics":
		topics, err := admin.ListTopicsWithInternal(ctx)
		return map[string]any{"topics": topics.Names()}, err
	case "describe-topic":
		topics, err := admin.ListTopics(ctx, args[0])
		return map[string]any{"partitions": len(topics[args[0]].Partitions)}, errors.Join(err, topics.Error())
	case "grow-topic":
		grown, err := admin.UpdatePartitions(ctx, int(lines.Number(args[1])), args[0])
		return nil, errors.Join(err, grown.Error())
	case "alter-config":
		altered, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: args[1], Value: &args[2]}}, args[0])
		for _, each := range altered {
			err = errors.Join(err, each.Err)
		}
		return nil, err
	case "alter-config-whole":
		altered, err := admin.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: args[1], Value: &args[2]}}, args[0])
		for _, each := range altered {
			err = errors.Join(err, each.Err)
		}
		return nil, err
	case "describe-config":
		return configs(admin.DescribeTopicConfigs(ctx, args[0]))
	case "broker-config":
		cluster, err := admin.BrokerMetadata(ctx)
		if err != nil {
			return nil, err
		}
		return configs(admin.DescribeBrokerConfigs(ctx, cluster.Controller))
	case "list-groups":
		groups, err := admin.ListGroups(ctx)
		return map[string]any{"groups": append([]string{}, groups.Groups()...)}, err
	case "describe-group":
		groups, err := admin.DescribeGroups(ctx, args[0])
		group := groups[args[0]]
		return map[string]any{"state": group.State, "members": len(group.Members)}, errors.Join(err, groups.Error())
	case "group-offsets":
		found, err := admin.FetchOffsets(ctx, args[0])
		offsets := [][]any{}
		for _, each := range found.Sorted() {
			offsets = append(offsets, []any{each.Topic, each.Partition, each.At})
		}
		return map[string]any{"offsets": offsets}, errors.Join(err, found.Error())
	case "delete-group":
		_, err := admin.DeleteGroup(ctx, args[0])
		return nil, err
	case "delete-topic":
		_, err := admin.DeleteTopic(ctx, args[0])
		return nil, err
	}
	return nil, errors.New("unknown step with " + strconv.Itoa(len(args)) + " arguments")
}
