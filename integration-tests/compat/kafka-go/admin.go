package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/segmentio/kafka-go"
	"ottla/compat/go/lines"
)

func administrate(bootstrap string, steps []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(bootstrap)}
	return lines.Steps(steps, func(name string, args []string) (map[string]any, error) {
		return step(ctx, client, name, args)
	})
}

func configs(ctx context.Context, client *kafka.Client, kind kafka.ResourceType, name string) (map[string]any, error) {
	answer, err := client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kind, ResourceName: name}},
	})
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, resource := range answer.Resources {
		err = errors.Join(err, resource.Error)
		for _, entry := range resource.ConfigEntries {
			values[entry.ConfigName] = entry.ConfigValue
		}
	}
	return map[string]any{"configs": values}, err
}

func step(ctx context.Context, client *kafka.Client, name string, args []string) (map[string]any, error) {
	switch name {
	case "create-topic":
		topic := kafka.TopicConfig{Topic: args[0], NumPartitions: int(lines.Number(args[1])), ReplicationFactor: 1}
		answer, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}})
		if err != nil {
			return nil, err
		}
		return nil, answer.Errors[args[0]]
	case "list-topics":
		answer, err := client.Metadata(ctx, &kafka.MetadataRequest{})
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, topic := range answer.Topics {
			names = append(names, topic.Name)
		}
		return map[string]any{"topics": names}, nil
	case "describe-topic":
		answer, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: args})
		if err != nil {
			return nil, err
		}
		return map[string]any{"partitions": len(answer.Topics[0].Partitions)}, answer.Topics[0].Error
	case "grow-topic":
		topic := kafka.TopicPartitionsConfig{Name: args[0], Count: lines.Number(args[1])}
		answer, err := client.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{topic}})
		if err != nil {
			return nil, err
		}
		return nil, answer.Errors[args[0]]
	case "alter-config":
		answer, err := client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
			Resources: []kafka.IncrementalAlterConfigsRequestResource{{
				ResourceType: kafka.ResourceTypeTopic, ResourceName: args[0],
				Configs: []kafka.IncrementalAlterConfigsRequestConfig{
					{Name: args[1], Value: args[2], ConfigOperation: kafka.ConfigOperationSet},
				},
			}},
		})
		if err != nil {
			return nil, err
		}
		return nil, answer.Resources[0].Error
	case "alter-config-whole":
		answer, err := client.AlterConfigs(ctx, &kafka.AlterConfigsRequest{
			Resources: []kafka.AlterConfigRequestResource{{
				ResourceType: kafka.ResourceTypeTopic, ResourceName: args[0],
				Configs: []kafka.AlterConfigRequestConfig{{Name: args[1], Value: args[2]}},
			}},
		})
		if err != nil {
			return nil, err
		}
		for _, failed := range answer.Errors {
			err = errors.Join(err, failed)
		}
		return nil, err
	case "describe-config":
		return configs(ctx, client, kafka.ResourceTypeTopic, args[0])
	case "broker-config":
		answer, err := client.Metadata(ctx, &kafka.MetadataRequest{})
		if err != nil {
			return nil, err
		}
		return configs(ctx, client, kafka.ResourceTypeBroker, strconv.Itoa(answer.Controller.ID))
	case "list-groups":
		answer, err := client.ListGroups(ctx, &kafka.ListGroupsRequest{})
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, group := range answer.Groups {
			names = append(names, group.GroupID)
		}
		return map[string]any{"groups": names}, answer.Error
	case "describe-group":
		answer, err := client.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: args})
		if err != nil {
			return nil, err
		}
		group := answer.Groups[0]
		return map[string]any{"state": group.GroupState, "members": len(group.Members)}, group.Error
	case "group-offsets":
		answer, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: args[0]})
		if err != nil {
			return nil, err
		}
		offsets := [][]any{}
		for topic, partitions := range answer.Topics {
			for _, each := range partitions {
				err = errors.Join(err, each.Error)
				offsets = append(offsets, []any{topic, each.Partition, each.CommittedOffset})
			}
		}
		return map[string]any{"offsets": offsets}, errors.Join(err, answer.Error)
	case "delete-group":
		answer, err := client.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: args})
		if err != nil {
			return nil, err
		}
		return nil, answer.Errors[args[0]]
	case "delete-topic":
		answer, err := client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: args})
		if err != nil {
			return nil, err
		}
		return nil, answer.Errors[args[0]]
	}
	return nil, errors.New("unknown step")
}
