//! Configs changed: AlterConfigs and IncrementalAlterConfigs.
//!
//! Called by the router. What a resource's settings become is decided by `plan.rs` from what they are; the
//! metadata machine takes the change only if they still are that, else it is planned anew. So of two clients
//! that append to one list at the same time, none is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;
use ottla_coordinator::metadata::{Command, ConfigResource, MetadataError, Reply};
use ottla_protocol::error_code::ErrorCode;

use super::plan::{Asked, SET, Settings, plan};
use super::{Refusal, TOPIC, Target};
use crate::router::Ctx;

/// Most keys that one request may name, over all its resources; Kafka's controller writes at most as many
/// records for one request (`QuorumController.MAX_RECORDS_PER_USER_OP`).
const MAX_KEYS: usize = 10_000;

/// How often a change is planned anew because somebody else was faster. Each time somebody else's change was
/// made, so that only a crowd can wear it out.
const ATTEMPTS: usize = 100;

/// AlterConfigs, versions 0 to 2: the settings named are all a resource has afterwards.
///
/// Versions differ in their encoding only. Kafka does not change loggers this way either.
pub async fn alter_configs(ctx: Ctx, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let resources = request.resources.into_iter().map(|resource| Resource {
        resource_type: resource.resource_type,
        name: resource.resource_name,
        asked: Asked {
            replace: true,
            entries: resource
                .configs
                .into_iter()
                .map(|config| (config.name.to_string(), SET, text(config.value)))
                .collect(),
        },
    });
    let answers = alter(&ctx, resources.collect(), request.validate_only).await;
    let answer = |(resource, outcome): (Resource, Result<(), Refusal>)| {
        let (error_code, error_message) = told(outcome);
        let mut answer = AlterConfigsResourceResponse::default();
        answer.error_code = error_code;
        answer.error_message = error_message;
        answer.resource_type = resource.resource_type;
        answer.resource_name = resource.name;
        answer
    };
    let mut response = AlterConfigsResponse::default();
    response.responses = answers.into_iter().map(answer).collect();
    response
}

/// IncrementalAlterConfigs, versions 0 and 1 (KIP-339): keys are set, deleted, or have items added to or taken
/// from their list; all others stay.
///
/// Versions differ in their encoding only.
pub async fn incremental_alter_configs(
    ctx: Ctx,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resources = request.resources.into_iter().map(|resource| Resource {
        resource_type: resource.resource_type,
        name: resource.resource_name,
        asked: Asked {
            replace: false,
            entries: resource
                .configs
                .into_iter()
                .map(|config| {
                    let operation = config.config_operation;
                    (config.name.to_string(), operation, text(config.value))
                })
                .collect(),
        },
    });
    let answers = alter(&ctx, resources.collect(), request.validate_only).await;
    let answer = |(resource, outcome): (Resource, Result<(), Refusal>)| {
        let (error_code, error_message) = told(outcome);
        let mut answer = IncrementalResourceResponse::default();
        answer.error_code = error_code;
        answer.error_message = error_message;
        answer.resource_type = resource.resource_type;
        answer.resource_name = resource.name;
        answer
    };
    let mut response = IncrementalAlterConfigsResponse::default();
    response.responses = answers.into_iter().map(answer).collect();
    response
}

/// One resource of a request.
struct Resource {
    resource_type: i8,
    name: StrBytes,
    asked: Asked,
}

fn text(value: Option<StrBytes>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn told(outcome: Result<(), Refusal>) -> (i16, Option<StrBytes>) {
    match outcome {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(refusal) => (
            refusal.code.code(),
            Some(StrBytes::from_string(refusal.message)),
        ),
    }
}

/// Changes each resource by itself; one that is refused does not keep the others from their change.
async fn alter(
    ctx: &Ctx,
    resources: Vec<Resource>,
    validate_only: bool,
) -> Vec<(Resource, Result<(), Refusal>)> {
    let keys: usize = resources
        .iter()
        .map(|resource| resource.asked.entries.len())
        .sum();
    let too_many = keys > MAX_KEYS || resources.len() > MAX_KEYS;
    let targets = targets(&resources, ctx.broker.identity.node_id);
    let altered = resources
        .into_iter()
        .zip(targets)
        .map(|(resource, target)| async move {
            let outcome = match target {
                _ if too_many => Err(Refusal::new(
                    ErrorCode::PolicyViolation,
                    format!("A request may name at most {MAX_KEYS} resources and keys."),
                )),
                Ok(target) => alter_one(ctx, &target, &resource.asked, validate_only).await,
                Err(refusal) => Err(refusal),
            };
            (resource, outcome)
        });
    join_all(altered).await
}

/// What each resource is, or why it is refused: one that is named twice is changed by neither.
fn targets(resources: &[Resource], node_id: i32) -> Vec<Result<Target, Refusal>> {
    let targets: Vec<_> = resources
        .iter()
        .map(|resource| {
            if resource.resource_type == TOPIC && resource.name.is_empty() {
                let message = "Default topic resources are not allowed.";
                return Err(Refusal::invalid_request(message));
            }
            Target::of(resource.resource_type, &resource.name, node_id)
        })
        .collect();
    let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for resource in targets.iter().flatten().filter_map(|t| t.resource(node_id)) {
        if !once.insert(resource.clone()) {
            twice.insert(resource);
        }
    }
    let unless_twice = |target: Target| match target.resource(node_id) {
        Some(resource) if twice.contains(&resource) => Err(Refusal::invalid_request(
            "Each resource must appear at most once.",
        )),
        _ => Ok(target),
    };
    targets
        .into_iter()
        .map(|target| target.and_then(unless_twice))
        .collect()
}

async fn alter_one(
    ctx: &Ctx,
    target: &Target,
    asked: &Asked,
    validate_only: bool,
) -> Result<(), Refusal> {
    let broker = &ctx.broker;
    for _ in 0..ATTEMPTS {
        let image = broker.metadata.image();
        if let Target::Topic(name) = target
            && image.topic(name).is_none()
        {
            let message = format!("The topic '{name}' does not exist.");
            return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, message));
        }
        let Some(resource) = target.resource(broker.identity.node_id) else {
            return plan(target, asked, &Settings::new(), &broker.dynamic.current()).map(drop);
        };
        let seen = image.resource_configs(&resource);
        let wanted = plan(target, asked, &seen, &broker.dynamic.current())?;
        let changes = difference(&seen, wanted);
        if changes.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = changes.iter().map(|(name, _)| name.clone()).collect();
        let command = Command::AlterConfigs {
            resource: resource.clone(),
            changes,
            seen,
            validate_only,
        };
        match broker.metadata.propose(command).await? {
            Reply::Done => {
                if !validate_only {
                    log_change(&resource, &names);
                }
                return Ok(());
            }
            Reply::Failed(MetadataError::ConfigsChanged) => {}
            other => return Err(Refusal::of(other)),
        }
    }
    Err(MetadataError::ConfigsChanged.into())
}

/// Names only: a value may be meant for few eyes.
fn log_change(resource: &ConfigResource, names: &[String]) {
    tracing::info!(%resource, configs = names.join(","), "configs changed");
}

/// What leads from the one to the other: `None` removes.
fn difference(from: &Settings, to: BTreeMap<String, String>) -> Vec<(String, Option<String>)> {
    let removed: Vec<_> = from
        .keys()
        .filter(|name| !to.contains_key(*name))
        .map(|name| (name.clone(), None))
        .collect();
    to.into_iter()
        .filter(|(name, value)| from.get(name) != Some(value))
        .map(|(name, value)| (name, Some(value)))
        .chain(removed)
        .collect()
}
