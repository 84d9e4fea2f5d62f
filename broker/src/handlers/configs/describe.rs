//! Configs shown: DescribeConfigs for topics and for brokers.
//!
//! Called by the router. Values come from the metadata image (a topic's own) and from the broker's static and
//! dynamic config; the two tables say what exists. Nothing here changes a config.

use std::collections::HashSet;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::Image;
use ottla_protocol::error_code::ErrorCode;

use super::{Refusal, Target};
use crate::config::dynamic::BrokerScope;
use crate::config::value::{ConfigSynonym, DescribedConfig};
use crate::config::{Config, DynamicConfig};
use crate::router::Ctx;
use crate::topic_config;

/// The first version with types and documentation.
const TYPES_SINCE: i16 = 3;

/// DescribeConfigs, versions 1 to 4.
///
/// - v1: sources and, when asked, synonyms
/// - v3: types and, when asked, documentation
///
/// Each resource has its own answer. Null or no names ask for all configs; names that do not exist are
/// left out of the answer, as in Kafka. A broker is named by its id; the empty name asks for what is set
/// at run time for all brokers. Groups and client metrics have no configs here, and log levels are refused.
pub async fn describe_configs(
    ctx: Ctx,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = ctx.broker.metadata.image();
    let live = ctx.broker.dynamic.current();
    let source = Source {
        image: &image,
        config: &ctx.broker.config,
        live: &live,
    };
    describe(request, ctx.api_version, source)
}

/// Where configs are.
#[derive(Clone, Copy)]
struct Source<'a> {
    image: &'a Image,
    config: &'a Config,
    live: &'a DynamicConfig,
}

fn describe(
    request: DescribeConfigsRequest,
    version: i16,
    source: Source<'_>,
) -> DescribeConfigsResponse {
    let form = Form {
        synonyms: request.include_synonyms,
        types: version >= TYPES_SINCE,
        documentation: version >= TYPES_SINCE && request.include_documentation,
    };
    let mut answered = HashSet::new();
    let mut response = DescribeConfigsResponse::default();
    for resource in request.resources {
        // Kafka answers a resource as often as it is named; then a small request has an answer of any size.
        let target = Target::of(
            resource.resource_type,
            &resource.resource_name,
            source.config.node_id,
        );
        let first = match &target {
            Ok(target) => target
                .resource(source.config.node_id)
                .is_none_or(|resource| answered.insert(resource)),
            Err(_) => true,
        };
        let described = if first {
            target.and_then(|target| described(&target, &resource, source))
        } else {
            Err(Refusal::invalid_request(
                "Duplicate resource in the request.",
            ))
        };
        response.results.push(result(resource, described, form));
    }
    response
}

/// Which optional parts an answer has.
#[derive(Debug, Clone, Copy)]
struct Form {
    synonyms: bool,
    types: bool,
    documentation: bool,
}

fn described(
    target: &Target,
    resource: &DescribeConfigsResource,
    source: Source<'_>,
) -> Result<Vec<DescribedConfig>, Refusal> {
    let all = match target {
        Target::Topic(name) if source.image.topic(name).is_none() => {
            return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, ""));
        }
        Target::Topic(name) => {
            topic_config::describe(&source.image.topic_configs(name), source.live)
        }
        Target::Broker(BrokerScope::AllBrokers) => source.live.describe_of_all(),
        Target::Broker(BrokerScope::ThisBroker) => source.live.describe(source.config),
        Target::Without(_) => Vec::new(),
    };
    let names = resource.configuration_keys.as_deref().unwrap_or_default();
    if names.is_empty() {
        return Ok(all);
    }
    let names: HashSet<&str> = names.iter().map(StrBytes::as_str).collect();
    Ok(all
        .into_iter()
        .filter(|described| names.contains(described.name))
        .collect())
}

fn result(
    resource: DescribeConfigsResource,
    described: Result<Vec<DescribedConfig>, Refusal>,
    form: Form,
) -> DescribeConfigsResult {
    let mut result = DescribeConfigsResult::default();
    result.resource_type = resource.resource_type;
    result.resource_name = resource.resource_name;
    // Kafka's message is empty, not null, where there is nothing to say.
    result.error_message = Some(StrBytes::default());
    match described {
        Ok(configs) => {
            result.configs = configs
                .into_iter()
                .map(|described| config_result(described, form))
                .collect();
        }
        Err(Refusal { code, message }) => {
            result.error_code = code.code();
            result.error_message = Some(StrBytes::from_string(message));
        }
    }
    result
}

fn config_result(described: DescribedConfig, form: Form) -> DescribeConfigsResourceResult {
    let mut result = DescribeConfigsResourceResult::default();
    result.name = StrBytes::from_static_str(described.name);
    result.value = described.value.map(StrBytes::from_string);
    result.read_only = described.read_only;
    result.config_source = described.source.code();
    result.is_sensitive = described.sensitive;
    if form.synonyms {
        result.synonyms = described.synonyms.into_iter().map(synonym_result).collect();
    }
    if form.types {
        result.config_type = described.config_type.code();
        result.documentation = form
            .documentation
            .then(|| StrBytes::from_string(described.documentation));
    }
    result
}

fn synonym_result(synonym: ConfigSynonym) -> DescribeConfigsSynonym {
    let mut result = DescribeConfigsSynonym::default();
    result.name = StrBytes::from_static_str(synonym.name);
    result.value = synonym.value.map(StrBytes::from_string);
    result.source = synonym.source.code();
    result
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
