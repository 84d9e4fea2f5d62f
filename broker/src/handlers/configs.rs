//! Configs shown: DescribeConfigs for topics and for this broker.
//!
//! Called by the router. Values come from the metadata image (a topic's own) and from the broker's
//! config; the two tables say what exists. Nothing here changes a config.

use std::collections::HashSet;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{Image, topic_name};
use ottla_protocol::error_code::ErrorCode;

use crate::config::Config;
use crate::config::value::{ConfigSource, ConfigSynonym, DescribedConfig};
use crate::router::Ctx;
use crate::topic_config;

/// Resource types of the wire (Kafka's `ConfigResource.Type`).
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// The first version with types and documentation.
const TYPES_SINCE: i16 = 3;

/// DescribeConfigs, versions 1 to 4.
///
/// - v1: sources and, when asked, synonyms
/// - v3: types and, when asked, documentation
///
/// Each resource has its own answer. Null or no names ask for all configs; names that do not exist are
/// left out of the answer, as in Kafka. A broker is named by its id; the empty name asks for what was set
/// at run time for all brokers, which nothing can do yet. Kafka also describes loggers, client metrics
/// and groups; here they are resources of an unknown type.
pub async fn describe_configs(
    ctx: Ctx,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = ctx.broker.metadata.image();
    describe(request, ctx.api_version, &image, &ctx.broker.config)
}

fn describe(
    request: DescribeConfigsRequest,
    version: i16,
    image: &Image,
    config: &Config,
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
        let first = answered.insert((resource.resource_type, resource.resource_name.clone()));
        let described = if first {
            described(&resource, image, config)
        } else {
            Err(Refusal::new(
                ErrorCode::InvalidRequest,
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

/// Why a resource is not described.
#[derive(Debug)]
struct Refusal {
    code: ErrorCode,
    message: String,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

fn described(
    resource: &DescribeConfigsResource,
    image: &Image,
    config: &Config,
) -> Result<Vec<DescribedConfig>, Refusal> {
    let name = resource.resource_name.as_str();
    let all = match resource.resource_type {
        TOPIC => describe_topic(name, image, config)?,
        BROKER => describe_broker(name, config)?,
        other => {
            let message = format!("Resources of type {other} have no configs here.");
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
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

fn describe_topic(
    name: &str,
    image: &Image,
    config: &Config,
) -> Result<Vec<DescribedConfig>, Refusal> {
    if let Err(error) = topic_name::validate(name) {
        return Err(Refusal::new(
            ErrorCode::InvalidTopicException,
            error.to_string(),
        ));
    }
    if image.topic(name).is_none() {
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, ""));
    }
    Ok(topic_config::describe(&image.topic_configs(name), config))
}

fn describe_broker(name: &str, config: &Config) -> Result<Vec<DescribedConfig>, Refusal> {
    if name.is_empty() {
        let at_run_time = |described: &DescribedConfig| {
            described.source == ConfigSource::DynamicDefaultBrokerConfig
        };
        return Ok(config
            .describe_broker()
            .into_iter()
            .filter(at_run_time)
            .collect());
    }
    let refused = |message: String| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    match name.parse::<i32>() {
        Ok(id) if id == config.node_id => Ok(config.describe_broker()),
        Ok(id) => refused(format!(
            "Broker {id} is not this one; ask for {} or the empty name.",
            config.node_id
        )),
        Err(_) => refused("The name of a broker resource must be a broker id or empty.".to_owned()),
    }
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
            .then(|| StrBytes::from_static_str(described.documentation));
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
#[path = "configs_tests.rs"]
mod tests;
