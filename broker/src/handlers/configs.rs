//! Configs of topics and brokers: what the APIs that show, change and list them have in common.
//!
//! `describe.rs` shows them, `alter.rs` changes them by the rules of `plan.rs`, and ListConfigResources is here.
//! What exists, and which values it may have, is said by the two config tables alone.

mod alter;
mod describe;
mod plan;

use std::collections::BTreeSet;

use kafka_protocol::messages::list_config_resources_response::ConfigResource as ListedResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{ConfigResource, Image, topic_name};
use ottla_protocol::error_code::ErrorCode;

use crate::config::dynamic::BrokerScope;
use crate::config::value;
use crate::handlers::refusal::Refusal;
use crate::router::Ctx;

pub use alter::{alter_configs, incremental_alter_configs};
pub use describe::describe_configs;

/// Resource types of the wire (Kafka's `ConfigResource.Type`).
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// A resource as a request names it, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// A topic with a possible name; whether it exists is another question.
    Topic(String),
    /// This broker, or all of them.
    Broker(BrokerScope),
    /// A kind of resource that has configs in Kafka and none here.
    Without(Kind),
}

/// Kinds of resources without configs, since what they would configure does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ClientMetrics,
    Group,
}

impl Target {
    /// Understands a resource's type and name.
    fn of(resource_type: i8, name: &str, node_id: i32) -> Result<Self, Refusal> {
        match resource_type {
            TOPIC => match topic_name::validate(name) {
                Ok(()) => Ok(Self::Topic(name.to_owned())),
                Err(error) => Err(Refusal::new(
                    ErrorCode::InvalidTopicException,
                    error.to_string(),
                )),
            },
            BROKER if name.is_empty() => Ok(Self::Broker(BrokerScope::AllBrokers)),
            BROKER => match name.parse::<i32>() {
                Ok(id) if id == node_id => Ok(Self::Broker(BrokerScope::ThisBroker)),
                Ok(id) => Err(Refusal::invalid_request(format!(
                    "Unexpected broker id, expected {node_id} or empty string, but received {id}"
                ))),
                Err(_) => Err(Refusal::invalid_request(format!(
                    "Broker id must be an integer, but it is: {}",
                    value::shown(name)
                ))),
            },
            BROKER_LOGGER => Err(Refusal::invalid_request(
                "Log levels are not shown or changed over the protocol; the environment variable OTTLA_LOG sets them at start.",
            )),
            CLIENT_METRICS if name.is_empty() => Err(Refusal::invalid_request(
                "Client metrics subscription name must not be empty",
            )),
            CLIENT_METRICS => Ok(Self::Without(Kind::ClientMetrics)),
            GROUP if name.is_empty() => {
                Err(Refusal::invalid_request("Group name must not be empty"))
            }
            GROUP => Ok(Self::Without(Kind::Group)),
            other => Err(Refusal::invalid_request(format!(
                "Unknown resource type {other}"
            ))),
        }
    }

    /// Where its settings stand in the metadata image; `None` where it cannot have any.
    fn resource(&self, node_id: i32) -> Option<ConfigResource> {
        match self {
            Self::Topic(name) => Some(ConfigResource::Topic(name.clone())),
            Self::Broker(BrokerScope::AllBrokers) => Some(ConfigResource::Broker(String::new())),
            // However the request spelled its id.
            Self::Broker(BrokerScope::ThisBroker) => {
                Some(ConfigResource::Broker(node_id.to_string()))
            }
            Self::Without(_) => None,
        }
    }
}

/// ListConfigResources, versions 0 and 1 (KIP-1142).
///
/// - v0: client metrics subscriptions only, of which there are none
/// - v1: of the types asked for, or of all: every topic, this broker; no logger, subscription or group has configs
///
/// A type that Kafka does not know refuses the request as UNSUPPORTED_VERSION, as in Kafka.
pub async fn list_config_resources(
    ctx: Ctx,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let types: BTreeSet<i8> = if ctx.api_version == 0 {
        BTreeSet::from([CLIENT_METRICS])
    } else {
        request.resource_types.into_iter().collect()
    };
    list(
        &types,
        &ctx.broker.metadata.image(),
        ctx.broker.identity.node_id,
    )
}

fn list(types: &BTreeSet<i8>, image: &Image, node_id: i32) -> ListConfigResourcesResponse {
    let mut response = ListConfigResourcesResponse::default();
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    if !types.iter().all(|asked| known.contains(asked)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return response;
    }
    let wanted = |asked| types.is_empty() || types.contains(&asked);
    let mut listed = |resource_type, name: String| {
        let mut resource = ListedResource::default();
        resource.resource_name = StrBytes::from_string(name);
        resource.resource_type = resource_type;
        response.config_resources.push(resource);
    };
    if wanted(BROKER) {
        listed(BROKER, node_id.to_string());
    }
    if wanted(TOPIC) {
        let names = image.names.keys();
        names.for_each(|name| listed(TOPIC, name.to_string()));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(types: &[i8]) -> (i16, Vec<(i8, String)>) {
        let mut image = Image::default();
        for (id, name) in [(1, "b"), (2, "a")] {
            let record = ottla_coordinator::record::MetadataRecord::Topic {
                name: name.to_owned(),
                topic_id: uuid::Uuid::from_u128(id),
            };
            image.apply(&record).expect("a new topic");
        }
        let response = list(&types.iter().copied().collect(), &image, 7);
        let resources = response.config_resources.into_iter();
        let named =
            |listed: ListedResource| (listed.resource_type, listed.resource_name.to_string());
        (response.error_code, resources.map(named).collect())
    }

    #[test]
    fn resources_are_listed_by_type() {
        let broker = (BROKER, "7".to_owned());
        let topics = vec![(TOPIC, "a".to_owned()), (TOPIC, "b".to_owned())];
        let all = [vec![broker.clone()], topics.clone()].concat();
        assert_eq!(listed(&[]), (0, all.clone()));
        assert_eq!(listed(&[TOPIC, BROKER, TOPIC]), (0, all));
        assert_eq!(listed(&[TOPIC]), (0, topics));
        assert_eq!(listed(&[BROKER]), (0, vec![broker]));
        for without in [BROKER_LOGGER, CLIENT_METRICS, GROUP] {
            assert_eq!(listed(&[without]), (0, vec![]));
        }
        for unknown in [0, 1, 3, 99, -1] {
            assert_eq!(listed(&[TOPIC, unknown]), (35, vec![]));
        }
    }

    #[test]
    fn targets_have_types_and_names() {
        let all = Target::Broker(BrokerScope::AllBrokers);
        let this = Target::Broker(BrokerScope::ThisBroker);
        assert_eq!(Target::of(BROKER, "", 7), Ok(all.clone()));
        assert_eq!(Target::of(BROKER, "07", 7), Ok(this.clone()));
        let resource = |name: &str| Some(ConfigResource::Broker(name.to_owned()));
        assert_eq!(all.resource(7), resource(""));
        assert_eq!(this.resource(7), resource("7"));
        assert_eq!(Target::of(GROUP, "g", 7), Ok(Target::Without(Kind::Group)));
        let long = "x".repeat(32_767);
        for (resource_type, name) in [
            (TOPIC, ""),
            (TOPIC, "a b"),
            (TOPIC, &long),
            (BROKER, "8"),
            (BROKER, "-1"),
            (BROKER, &long),
            (BROKER_LOGGER, "7"),
            (CLIENT_METRICS, ""),
            (GROUP, ""),
            (0, "x"),
            (99, "x"),
        ] {
            let refusal = Target::of(resource_type, name, 7).expect_err("a refusal");
            let code = if resource_type == TOPIC { 17 } else { 42 };
            assert_eq!(refusal.code.code(), code, "{resource_type}");
            assert!(
                (1..2_000).contains(&refusal.message.len()),
                "it fits into an answer"
            );
        }
    }
}
