package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
	"ottla/compat/go/lines"
)

func administrate(bootstrap string, steps []string) error {
	var settings []string
	for strings.HasPrefix(steps[0], "version=") {
		settings, steps = append(settings, steps[0]), steps[1:]
	}
	config, err := configure(settings)
	if err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer admin.Close()
	return lines.Steps(steps, func(name string, args []string) (map[string]any, error) {
		return step(admin, name, args)
	})
}

func configs(entries []sarama.ConfigEntry, err error) (map[string]any, error) {
	values := map[string]string{}
	for _, entry := range entries {
		values[entry.Name] = entry.Value
	}
	return map[string]any{"configs": values}, err
}

func step(admin sarama.ClusterAdmin, name string, args []string) (map[string]any, error) {
	switch name {
	case "create-topic":
		detail := &sarama.TopicDetail{NumPartitions: lines.Number(args[1]), ReplicationFactor: 1}
		return nil, admin.CreateTopic(args[0], detail, false)
	case "list-topics":
		topics, err := admin.ListTopics()
		return map[string]any{"topics": slices.AppendSeq([]string{}, maps.Keys(topics))}, err
	case "describe-topic":
		topics, err := admin.DescribeTopics(args)
		if err != nil || topics[0].Err != sarama.ErrNoError {
			return nil, fmt.Errorf("%w, %v", err, topics)
		}
		return map[string]any{"partitions": len(topics[0].Partitions)}, nil
	case "grow-topic":
		return nil, admin.CreatePartitions(args[0], lines.Number(args[1]), nil, false)
	case "alter-config":
		entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &args[2]}
		entries := map[string]sarama.IncrementalAlterConfigsEntry{args[1]: entry}
		return nil, admin.IncrementalAlterConfig(sarama.TopicResource, args[0], entries, false)
	case "alter-config-whole":
		return nil, admin.AlterConfig(sarama.TopicResource, args[0], map[string]*string{args[1]: &args[2]}, false)
	case "describe-config":
		return configs(admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: args[0]}))
	case "broker-config":
		_, node, err := admin.DescribeCluster()
		if err != nil {
			return nil, err
		}
		return configs(admin.DescribeConfig(sarama.ConfigResource{Type: sarama.BrokerResource, Name: strconv.Itoa(int(node))}))
	case "list-groups":
		groups, err := admin.ListConsumerGroups()
		return map[string]any{"groups": slices.AppendSeq([]string{}, maps.Keys(groups))}, err
	case "describe-group":
		groups, err := admin.DescribeConsumerGroups(args)
		if err != nil {
			return nil, err
		}
		return map[string]any{"state": groups[0].State, "members": len(groups[0].Members)}, nil
	case "group-offsets":
		found, err := admin.ListConsumerGroupOffsets(args[0], nil)
		if err != nil || found.Err != sarama.ErrNoError {
			return nil, fmt.Errorf("%w, %v", err, found)
		}
		offsets := [][]any{}
		for topic, partitions := range found.Blocks {
			for partition, block := range partitions {
				offsets = append(offsets, []any{topic, partition, block.Offset})
			}
		}
		return map[string]any{"offsets": offsets}, nil
	case "delete-group":
		return nil, admin.DeleteConsumerGroup(args[0])
	case "delete-topic":
		return nil, admin.DeleteTopic(args[0])
	}
	return nil, errors.New("unknown step")
}
