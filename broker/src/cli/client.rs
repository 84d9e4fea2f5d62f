//! A small Kafka client for the commands: connections, version negotiation, metadata, leaders, coordinators.
//!
//! Used by every client command; it knows brokers only by what they say on the wire, so that it works against any
//! Kafka-compatible one. Every wait has a deadline. A connection on which a wait was given up is closed, never used
//! again: it is taken out of the pool for the time of a request. Requests are not repeated behind the caller's back,
//! but once where a connection from the pool turns out to be closed already.

mod connection;
mod offsets;

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::error_code::ErrorCode;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, Kind, Result};
pub use connection::{Address, Connection};
pub use offsets::{At, Committer, Partition};

/// Pause before something is asked again that may have changed meanwhile.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a topic that the broker may be creating can stay unknown.
const CREATION: Duration = Duration::from_secs(3);

/// Whom a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// Any broker: the one that was found first.
    Any,
    /// This broker.
    Id(i32),
    /// This broker over a connection of its own, because answers to group members may take long.
    Coordinator(i32),
}

/// Connections to one cluster.
pub struct Client {
    bootstrap: Vec<Address>,
    timeout: Duration,
    nodes: BTreeMap<i32, Address>,
    leaders: HashMap<Partition, i32>,
    coordinators: HashMap<String, Node>,
    connections: HashMap<Node, Connection>,
}

impl Client {
    /// A client that has connected to nobody yet. `bootstrap` is `host:port`, or several with commas.
    pub fn new(bootstrap: &str, timeout: Duration) -> Result<Self> {
        let bootstrap = bootstrap.split(',').map(str::trim).map(Address::parse);
        Ok(Self {
            bootstrap: bootstrap.collect::<Result<_>>()?,
            timeout,
            nodes: BTreeMap::new(),
            leaders: HashMap::new(),
            coordinators: HashMap::new(),
            connections: HashMap::new(),
        })
    }

    /// How long an answer may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where it was told to begin.
    pub fn bootstrap(&self) -> &[Address] {
        &self.bootstrap
    }

    /// Asks in the newest version that is within `versions` and the broker has.
    pub async fn ask<Q: Request>(
        &mut self,
        node: Node,
        versions: RangeInclusive<i16>,
        request: &Q,
    ) -> Result<Q::Response> {
        self.ask_patiently(node, versions, request, Duration::ZERO)
            .await
    }

    /// The same for a request that the broker may answer only after a time of its own.
    pub async fn ask_patiently<Q: Request>(
        &mut self,
        node: Node,
        versions: RangeInclusive<i16>,
        request: &Q,
        extra: Duration,
    ) -> Result<Q::Response> {
        let timeout = self.timeout + extra;
        if let Some(mut connection) = self.connections.remove(&node) {
            match connection.ask(versions.clone(), request, timeout).await {
                Err(failure) if connection.was_closed() => {
                    tracing::debug!(%failure, "connecting again");
                }
                Err(failure) => return Err(failure),
                Ok(response) => {
                    self.connections.insert(node, connection);
                    return Ok(response);
                }
            }
        }
        let mut connection = self.connect(node).await?;
        let response = connection.ask(versions, request, timeout).await?;
        self.connections.insert(node, connection);
        Ok(response)
    }

    /// Asks once more, a moment later, when the answer's error says that this may help.
    pub async fn ask_settled<Q: Request>(
        &mut self,
        node: Node,
        versions: RangeInclusive<i16>,
        request: &Q,
        first_error: impl Fn(&Q::Response) -> i16,
    ) -> Result<Q::Response> {
        let response = self.ask(node, versions.clone(), request).await?;
        if !ErrorCode::from_code(first_error(&response)).is_some_and(ErrorCode::retriable) {
            return Ok(response);
        }
        sleep(PAUSE).await;
        self.ask(node, versions, request).await
    }

    /// Asks several brokers at once; answers stand in the order of the requests.
    pub async fn ask_each<Q: Request>(
        &mut self,
        versions: RangeInclusive<i16>,
        requests: Vec<(Node, Q)>,
    ) -> Vec<Result<Q::Response>> {
        let mut connected = Vec::new();
        for (node, request) in requests {
            let connection = match self.connections.remove(&node) {
                Some(connection) => Ok(connection),
                None => self.connect(node).await,
            };
            connected.push((node, connection, request));
        }
        let timeout = self.timeout;
        let asked = connected.into_iter().map(|(node, connection, request)| {
            let versions = versions.clone();
            async move {
                let mut connection = connection?;
                let response = connection.ask(versions, &request, timeout).await?;
                Ok((node, connection, response))
            }
        });
        let mut answers = Vec::new();
        for answer in join_all(asked).await {
            answers.push(answer.map(|(node, connection, response)| {
                self.connections.insert(node, connection);
                response
            }));
        }
        answers
    }

    /// A fresh connection, for who wants to see the broker's versions.
    pub async fn connect(&self, node: Node) -> Result<Connection> {
        let (Node::Id(id) | Node::Coordinator(id)) = node else {
            return self.connect_first().await;
        };
        let Some(address) = self.nodes.get(&id) else {
            return Err(Failure::unreachable(format_args!(
                "broker {id} is named by the cluster, but its address is not"
            )));
        };
        Connection::open(address, self.timeout)
            .await
            .map_err(|failure| {
                let away = failure.kind == Kind::Unreachable && !self.bootstrap.contains(address);
                if away {
                    failure.hint(format_args!(
                        "clients are told to reach broker {id} there: check its advertised.listeners with ottla doctor"
                    ))
                } else {
                    failure
                }
            })
    }

    async fn connect_first(&self) -> Result<Connection> {
        let mut first_failure = None;
        for address in &self.bootstrap {
            match Connection::open(address, self.timeout).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => first_failure = first_failure.or(Some(failure)),
            }
        }
        let failure =
            first_failure.unwrap_or_else(|| Failure::usage("--bootstrap names no broker"));
        Err(failure.hint("is a broker running there? name another with --bootstrap HOST:PORT"))
    }

    /// What the cluster says of itself and of these topics; `None`: of all.
    pub async fn metadata(
        &mut self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<MetadataResponse> {
        let named =
            |name: &&str| MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|topics| topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(create);
        let response = self.ask(Node::Any, 4..=12, &request).await?;
        for broker in &response.brokers {
            let address = Address::new(broker.host.as_str(), broker.port)?;
            self.nodes.insert(broker.node_id.0, address);
        }
        for topic in &response.topics {
            let Some(name) = &topic.name else { continue };
            for partition in &topic.partitions {
                let key = (name.to_string(), partition.partition_index);
                if partition.error_code == 0 || partition.leader_id.0 >= 0 {
                    self.leaders.insert(key, partition.leader_id.0);
                } else {
                    self.leaders.remove(&key);
                }
            }
        }
        Ok(response)
    }

    /// A topic whose partitions all have a leader. With `create` the broker may make it, as it does for any
    /// producer, and is given a moment.
    pub async fn topic(&mut self, name: &str, create: bool) -> Result<MetadataResponseTopic> {
        let began = Instant::now();
        loop {
            let response = self.metadata(Some(&[name]), create).await?;
            let Some(topic) = response.topics.into_iter().next() else {
                return Err(Failure::refused(format_args!(
                    "topic {name}: the broker did not answer about it"
                )));
            };
            let leaderless = topic
                .partitions
                .iter()
                .find(|partition| partition.leader_id.0 < 0);
            let code = match (topic.error_code, leaderless) {
                (0, None) => return Ok(topic),
                (0, Some(partition)) => partition.error_code,
                (code, _) => code,
            };
            let failure = topic_failure(name, code);
            let unknown = failure.code == Some(ErrorCode::UnknownTopicOrPartition);
            let patience = match (unknown, create) {
                (true, false) => Duration::ZERO,
                (true, true) => CREATION,
                (false, _) => self.timeout,
            };
            if !failure.retriable() || began.elapsed() >= patience {
                return Err(failure);
            }
            sleep(PAUSE).await;
        }
    }

    /// The broker that leads a partition, if it was heard of.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<Node> {
        let leader = self.leaders.get(&(topic.to_owned(), partition))?;
        Some(Node::Id(*leader))
    }

    /// The broker that coordinates a group, over a connection for group requests. Waits while the cluster makes
    /// itself ready for groups.
    pub async fn coordinator(&mut self, group: &str) -> Result<Node> {
        if let Some(known) = self.coordinators.get(group) {
            return Ok(*known);
        }
        let request = FindCoordinatorRequest::default().with_key(text(group));
        let began = Instant::now();
        loop {
            let found = self.ask(Node::Any, 0..=3, &request).await?;
            if found.error_code == 0 {
                let address = Address::new(found.host.as_str(), found.port)?;
                self.nodes.insert(found.node_id.0, address);
                let node = Node::Coordinator(found.node_id.0);
                self.coordinators.insert(group.to_owned(), node);
                return Ok(node);
            }
            let what = format_args!("coordinator of group {group}");
            let failure = Failure::told(what, found.error_code, found.error_message.as_deref());
            if !failure.retriable() || began.elapsed() >= self.timeout {
                return Err(failure);
            }
            sleep(PAUSE).await;
        }
    }

    /// Looks the coordinator up anew before the next request to it.
    pub fn forget_coordinator(&mut self, group: &str) {
        if let Some(node) = self.coordinators.remove(group) {
            self.connections.remove(&node);
        }
    }

    /// Waits a moment before something is tried again.
    pub async fn pause(&self) {
        sleep(PAUSE).await;
    }
}

/// What to say, and to do, about a topic's error.
pub fn topic_failure(name: &str, code: i16) -> Failure {
    let failure = Failure::told(format_args!("topic {name}"), code, None);
    if failure.code == Some(ErrorCode::UnknownTopicOrPartition) {
        failure.hint(format_args!(
            "see ottla topic list, or make it: ottla topic create {name}"
        ))
    } else {
        failure
    }
}

/// The codec's kind of text.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
