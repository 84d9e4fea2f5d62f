//! Topics, first answers and short connections.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DescribeLogDirsRequest, MetadataRequest,
    ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla::env::Env;

use super::batches::PRODUCE_VERSION;
use super::consume::Fetcher;
use super::{Client, Shape, Target, failed};

const API_VERSIONS_VERSION: i16 = 3;
const METADATA_VERSION: i16 = 9;
const CREATE_TOPICS_VERSION: i16 = 5;
const DESCRIBE_LOG_DIRS_VERSION: i16 = 4;

/// A created topic takes no longer to have leaders.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks for a topic and returns when that is answered; not all partitions may have a leader yet.
pub fn create_topic(target: &Target) -> io::Result<()> {
    create_topic_with(target, &[])
}

/// The same, with configs of its own.
pub fn create_topic_with(target: &Target, configs: &[(&str, &str)]) -> io::Result<()> {
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string((*name).to_owned()))
            .with_value(Some(StrBytes::from_string((*value).to_owned())))
    });
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(target.topic.clone())))
        .with_num_partitions(target.partitions)
        .with_replication_factor(-1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(60_000);
    let response = Client::connect(&target.address)?.ask(CREATE_TOPICS_VERSION, &request)?;
    match response.topics.iter().find(|topic| topic.error_code != 0) {
        None => Ok(()),
        Some(topic) => Err(failed(format!(
            "CreateTopics: error {} {:?}",
            topic.error_code, topic.error_message
        ))),
    }
}

/// Bytes that the broker has of these topics.
pub fn size_of_topics(address: &str, topics: &[&str]) -> io::Result<u64> {
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let response = Client::connect(address)?.ask(DESCRIBE_LOG_DIRS_VERSION, &request)?;
    let here = response.results.iter().flat_map(|dir| &dir.topics);
    let sizes = here
        .filter(|topic| topics.contains(&topic.name.as_str()))
        .flat_map(|topic| &topic.partitions)
        .map(|partition| u64::try_from(partition.partition_size).unwrap_or(0));
    Ok(sizes.sum())
}

/// Asks again and again until every partition answers for its end offset.
pub fn wait_for_leaders(env: &Env, target: &Target) -> io::Result<()> {
    let deadline = env.monotonic() + DEADLINE;
    loop {
        match Fetcher::of_all(target) {
            Ok(_) => return Ok(()),
            Err(error) if env.monotonic() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}

/// A topic that is ready to be used.
pub fn ready_topic(env: &Env, target: &Target) -> io::Result<()> {
    create_topic(target)?;
    wait_for_leaders(env, target)
}

/// Appends one small record to every partition with one request; those that refuse it are asked again.
pub fn write_once(env: &Env, target: &Target) -> io::Result<()> {
    let deadline = env.monotonic() + DEADLINE;
    let batch = Shape::single(100).batch(&mut fastrand::Rng::with_seed(1), env.now_ms());
    let mut client = Client::connect(&target.address)?;
    let mut left: Vec<i32> = (0..target.partitions).collect();
    while !left.is_empty() {
        if env.monotonic() > deadline {
            return Err(failed(format!("{} partitions take no record", left.len())));
        }
        let data = |partition: &i32| {
            PartitionProduceData::default()
                .with_index(*partition)
                .with_records(Some(batch.clone()))
        };
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(target.topic.clone())))
            .with_partition_data(left.iter().map(data).collect());
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        let response = client.ask(PRODUCE_VERSION, &request)?;
        let answers = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses);
        let taken: HashSet<i32> = answers
            .filter(|answer| answer.error_code == 0)
            .map(|answer| answer.index)
            .collect();
        left.retain(|partition| !taken.contains(partition));
    }
    Ok(())
}

/// Connects and asks for the metadata of all topics; an error until the broker answers and names itself.
pub fn first_answer(address: &str) -> io::Result<()> {
    let none: Option<Vec<MetadataRequestTopic>> = None;
    let request = MetadataRequest::default().with_topics(none);
    let response = Client::connect(address)?.ask(METADATA_VERSION, &request)?;
    if response.brokers.is_empty() {
        return Err(failed("Metadata names no broker yet"));
    }
    Ok(())
}

/// Connects, asks for the API versions and closes, with so many threads for so long; connections answered per second.
pub fn connection_rate(
    env: Env,
    address: &str,
    threads: usize,
    length: Duration,
) -> io::Result<f64> {
    let begin = env.monotonic();
    let end = begin + length;
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let address = address.to_owned();
            std::thread::spawn(move || -> io::Result<u64> {
                let request = ApiVersionsRequest::default()
                    .with_client_software_name(StrBytes::from_static_str("load"))
                    .with_client_software_version(StrBytes::from_static_str("1"));
                let mut answered = 0;
                while env.monotonic() < end {
                    let response =
                        Client::connect(&address)?.ask(API_VERSIONS_VERSION, &request)?;
                    if response.error_code != 0 {
                        return Err(failed(format!("ApiVersions: {}", response.error_code)));
                    }
                    answered += 1;
                }
                Ok(answered)
            })
        })
        .collect();
    let mut answered = 0;
    for worker in workers {
        answered += worker
            .join()
            .map_err(|_| failed("a load thread panicked"))??;
    }
    Ok(answered as f64 / (env.monotonic() - begin).as_secs_f64())
}
