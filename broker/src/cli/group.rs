//! `ottla group`: list, describe with lag, reset, delete.
//!
//! Speaks of classic groups, which is what DescribeGroups knows. A reset is shown first and made with `--execute` only;
//! it is refused here while members could overwrite it, and by the coordinator anyhow.

use std::collections::{BTreeMap, BTreeSet};

use clap::{ArgGroup, Args, Subcommand};
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest,
};
use ottla_protocol::error_code::ErrorCode;
use serde_json::{Value, json};

use super::client::{At, Committer, Node, Partition, text};
use super::consume::places::{keys, resolve};
use super::consumer_protocol::assigned_partitions;
use super::failure::{Failure, Kind, Result};
use super::output::{Table, counted, remark};
use super::run::{Common, Session};
use super::topic::{keep_first, or_dash, topic_partitions};
use super::when::When;

/// `ottla group`.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// What all client commands have.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: GroupCommand,
}

/// The subcommands of `group`.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// All groups with their states
    List,
    /// Committed offsets, lag and members
    Describe {
        /// Names of the groups
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Move committed offsets; shows what would change, and changes it with --execute
    Reset(ResetArgs),
    /// Delete groups that have no members, with their offsets
    Delete {
        /// Names of the groups
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Options of `group reset`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).args(["to", "shift"])))]
pub struct ResetArgs {
    /// Name of the group
    pub name: String,
    /// earliest, latest, an offset, -N before the end, a time (RFC 3339 or @EPOCH_MS) or an age (-1h)
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    pub to: Option<String>,
    /// So many records on, or back if negative
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub shift: Option<i64>,
    /// Only this topic, or only some partitions of it; may be repeated. All that is committed without it
    #[arg(long = "topic", value_name = "TOPIC[:PARTITION,...]")]
    pub topics: Vec<String>,
    /// Make the change
    #[arg(long)]
    pub execute: bool,
}

/// Runs it.
pub async fn run(session: &mut Session, command: &GroupCommand) -> Result<()> {
    match command {
        GroupCommand::List => list(session).await,
        GroupCommand::Describe { names } => {
            let mut failed = None;
            for (at, name) in names.iter().enumerate() {
                if at > 0 && !session.out.is_json() {
                    session.out.line("")?;
                }
                match describe(session, name).await {
                    Err(failure) if failure.kind == Kind::Refused => {
                        keep_first(&mut failed, failure);
                    }
                    outcome => outcome?,
                }
            }
            failed.map_or(Ok(()), Err)
        }
        GroupCommand::Reset(args) => reset(session, args).await,
        GroupCommand::Delete { names } => delete(session, names).await,
    }
}

/// Every broker knows the groups it coordinates.
async fn list(session: &mut Session) -> Result<()> {
    let metadata = session.client.metadata(Some(&[]), false).await?;
    let brokers = metadata.brokers.iter();
    let requests = brokers.map(|broker| (Node::Id(broker.node_id.0), ListGroupsRequest::default()));
    let requests = requests.collect();
    let mut rows = BTreeSet::new();
    for answer in session.client.ask_each(0..=5, requests).await {
        let answer = answer?;
        if answer.error_code != 0 {
            return Err(Failure::told("groups", answer.error_code, None));
        }
        for group in answer.groups {
            let or_dash = |text: &str| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text.to_owned()
                }
            };
            rows.insert((
                group.group_id.to_string(),
                or_dash(&group.group_state),
                or_dash(&group.protocol_type),
                or_dash(&group.group_type),
            ));
        }
    }
    let mut table = Table::new(&["GROUP", "STATE", "PROTOCOL", "TYPE"]);
    let mut objects = Vec::new();
    for (group, state, protocol, kind) in rows {
        objects.push(
            json!({ "group": group, "state": state, "protocol_type": protocol, "type": kind }),
        );
        table.row([group, state, protocol, kind]);
    }
    session.out.rows(&table, &objects)
}

async fn fetch_group(session: &mut Session, name: &str) -> Result<(Node, DescribedGroup)> {
    let node = session.client.coordinator(name).await?;
    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(name))]);
    let code = |response: &kafka_protocol::messages::DescribeGroupsResponse| {
        response.groups.first().map_or(0, |group| group.error_code)
    };
    let response = session
        .client
        .ask_settled(node, 0..=5, &request, code)
        .await?;
    let Some(group) = response.groups.into_iter().next() else {
        return Err(Failure::refused(format_args!(
            "group {name}: the broker did not answer about it"
        )));
    };
    if group.error_code != 0 {
        let message = group.error_message.as_deref();
        return Err(Failure::told(
            format_args!("group {name}"),
            group.error_code,
            message,
        ));
    }
    Ok((node, group))
}

async fn describe(session: &mut Session, name: &str) -> Result<()> {
    let (node, group) = fetch_group(session, name).await?;
    let committed = session.client.committed(name, None).await?;
    if group.group_state.as_str() == "Dead" && committed.is_empty() {
        return Err(missing(name));
    }
    let mut owners: BTreeMap<Partition, usize> = BTreeMap::new();
    let mut idle = Vec::new();
    let mut members = Vec::new();
    for (at, member) in group.members.iter().enumerate() {
        // Other protocols, Kafka Connect's for one, have other bytes there.
        let partitions = if group.protocol_type.as_str() == "consumer" {
            assigned_partitions(&member.member_assignment).unwrap_or_default()
        } else {
            BTreeSet::new()
        };
        if partitions.is_empty() {
            idle.push(at);
        }
        let shown: Vec<Value> = partitions
            .iter()
            .map(|(topic, partition)| json!({ "topic": topic, "partition": partition }))
            .collect();
        members.push(json!({
            "member": member.member_id.as_str(), "client": member.client_id.as_str(),
            "instance": member.group_instance_id.as_deref(), "host": member.client_host.as_str(),
            "partitions": shown,
        }));
        owners.extend(partitions.into_iter().map(|partition| (partition, at)));
    }
    let partitions: BTreeSet<Partition> = committed.keys().chain(owners.keys()).cloned().collect();
    let ends = ends(session, &partitions).await?;
    let mut table = Table::new(&[
        "TOPIC",
        "PARTITION",
        "COMMITTED",
        "END",
        "LAG",
        "MEMBER",
        "HOST",
    ]);
    let mut offsets = Vec::new();
    let member_cells = |at: usize| {
        let member = &group.members[at];
        let host = member.client_host.trim_start_matches('/').to_owned();
        (member.member_id.to_string(), host)
    };
    for key in partitions {
        let (topic, partition) = &key;
        let (offset, end) = (committed.get(&key).copied(), ends.get(&key).copied());
        // Offsets committed behind the end lag by nothing.
        let lag = offset.zip(end).map(|(offset, end)| (end - offset).max(0));
        let owner = owners.get(&key).map(|at| member_cells(*at));
        offsets.push(json!({
            "topic": topic, "partition": partition, "committed": offset, "end": end, "lag": lag,
            "member": owner.as_ref().map(|(member, _)| member),
        }));
        let (member, host) = owner.unwrap_or_else(|| ("-".to_owned(), "-".to_owned()));
        table.row([
            topic.clone(),
            partition.to_string(),
            or_dash(offset),
            or_dash(end),
            or_dash(lag),
            member,
            host,
        ]);
    }
    for at in idle {
        let (member, host) = member_cells(at);
        let dash = || "-".to_owned();
        table.row([dash(), dash(), dash(), dash(), dash(), member, host]);
    }
    let coordinator = match node {
        Node::Id(id) | Node::Coordinator(id) => id,
        Node::Any => -1,
    };
    let state = group.group_state.as_str();
    if session.out.is_json() {
        return session.out.object(&json!({
            "group": name, "state": state, "protocol_type": group.protocol_type.as_str(),
            "protocol": group.protocol_data.as_str(), "coordinator": coordinator,
            "members": members, "offsets": offsets,
        }));
    }
    let protocol = group.protocol_data.as_str();
    let protocol = if protocol.is_empty() {
        String::new()
    } else {
        format!(", assignor {protocol}")
    };
    let count = counted(group.members.len() as u64, "member");
    session.out.line(format_args!(
        "{name}: {state}, {count}{protocol}, coordinator {coordinator}"
    ))?;
    session.out.rows(&table, &[])
}

fn missing(name: &str) -> Failure {
    Failure::refused(format_args!(
        "group {name} does not exist; see ottla group list"
    ))
}

/// Where partitions end; those of topics that are gone are left out.
async fn ends(
    session: &mut Session,
    partitions: &BTreeSet<Partition>,
) -> Result<BTreeMap<Partition, i64>> {
    let topics: BTreeSet<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
    let topics: Vec<&str> = topics.into_iter().collect();
    if !topics.is_empty() {
        session.client.metadata(Some(&topics), false).await?;
    }
    let there: Vec<Partition> = partitions
        .iter()
        .filter(|(topic, partition)| session.client.leader(topic, *partition).is_some())
        .cloned()
        .collect();
    let ends = session.client.offsets(&there, At::Latest).await?;
    Ok(ends
        .into_iter()
        .filter_map(|(key, end)| Some((key, end?)))
        .collect())
}

async fn reset(session: &mut Session, args: &ResetArgs) -> Result<()> {
    let name = &args.name;
    let to = match &args.to {
        Some(to) => Some(When::parse(to, session.env.now_ms())?),
        None => None,
    };
    let (_, group) = fetch_group(session, name).await?;
    if !group.members.is_empty() {
        return Err(Failure::refused(format_args!(
            "group {name} has {}, which would commit over a reset; stop them first (ottla group describe {name} shows them)",
            counted(group.members.len() as u64, "member")
        )));
    }
    let committed = session.client.committed(name, None).await?;
    let partitions = chosen_partitions(session, name, &args.topics, &committed).await?;
    let firsts = session.client.offsets(&partitions, At::Earliest).await?;
    let ends = session.client.offsets(&partitions, At::Latest).await?;
    let wanted = match to {
        Some(to) => resolve(&mut session.client, &partitions, to).await?,
        None => {
            let shift = args.shift.unwrap_or(0);
            let uncommitted = partitions.iter().find(|key| !committed.contains_key(*key));
            if let Some((topic, partition)) = uncommitted {
                return Err(Failure::refused(format_args!(
                    "group {name} has committed nothing for topic {topic}, partition {partition}, so there is nothing to shift; use --to"
                )));
            }
            let shifted = partitions
                .iter()
                .map(|key| (key.clone(), committed[key].saturating_add(shift)));
            shifted.collect()
        }
    };
    let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "NEW", "LAG"]);
    let mut objects = Vec::new();
    let mut targets = BTreeMap::new();
    for (key, wanted) in wanted {
        let first = firsts.get(&key).copied().flatten().unwrap_or(0);
        let end = ends.get(&key).copied().flatten().unwrap_or(first);
        let offset = wanted.clamp(first, end.max(first));
        let (topic, partition) = &key;
        if offset != wanted {
            remark(format_args!(
                "topic {topic}, partition {partition}: {wanted} lies outside of {first} to {end}, taking {offset}"
            ));
        }
        let before = committed.get(&key).copied();
        table.row([
            topic.clone(),
            partition.to_string(),
            or_dash(before),
            offset.to_string(),
            (end - offset).to_string(),
        ]);
        objects.push(json!({
            "group": name, "topic": topic, "partition": partition, "committed": before,
            "new": offset, "lag": end - offset, "executed": args.execute,
        }));
        targets.insert(key, offset);
    }
    if args.execute {
        let from_outside = Committer {
            member_id: "",
            generation: -1,
        };
        session.client.commit(name, from_outside, &targets).await?;
    }
    session.out.rows(&table, &objects)?;
    if !args.execute {
        session.out.flush()?;
        remark("nothing was changed: give --execute to do it");
    }
    Ok(())
}

/// The partitions to reset: those named, or all with a commit.
async fn chosen_partitions(
    session: &mut Session,
    group: &str,
    topics: &[String],
    committed: &BTreeMap<Partition, i64>,
) -> Result<Vec<Partition>> {
    if topics.is_empty() {
        if committed.is_empty() {
            return Err(Failure::refused(format_args!(
                "group {group} has committed nothing; name what to reset with --topic"
            )));
        }
        let all: BTreeSet<Partition> = committed.keys().cloned().collect();
        let there = ends(session, &all).await?;
        if let Some((topic, partition)) = all.iter().find(|key| !there.contains_key(*key)) {
            remark(format_args!(
                "topic {topic}, partition {partition} is gone and left out"
            ));
        }
        return Ok(there.into_keys().collect());
    }
    let mut chosen = BTreeSet::new();
    for topic in topics {
        let (name, indexes) = match topic.rsplit_once(':') {
            None => (topic.as_str(), None),
            Some((name, indexes)) => {
                let indexes: std::result::Result<Vec<i32>, _> =
                    indexes.split(',').map(str::parse).collect();
                let indexes = indexes.map_err(|_| {
                    Failure::usage(format_args!(
                        "--topic {topic:?} is not TOPIC or TOPIC:0,1,2"
                    ))
                })?;
                (name, Some(indexes))
            }
        };
        let described = session.client.topic(name, false).await?;
        let all = topic_partitions(&described);
        let indexes = indexes.unwrap_or_else(|| all.clone());
        if let Some(unknown) = indexes.iter().find(|index| !all.contains(index)) {
            return Err(Failure::refused(format_args!(
                "topic {name} has no partition {unknown}: they go from 0 to {}",
                all.len().saturating_sub(1)
            )));
        }
        chosen.extend(keys(name, &indexes));
    }
    Ok(chosen.into_iter().collect())
}

async fn delete(session: &mut Session, names: &[String]) -> Result<()> {
    let mut failed = None;
    for name in names {
        let node = session.client.coordinator(name).await?;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(name))]);
        let code = |response: &kafka_protocol::messages::DeleteGroupsResponse| {
            response
                .results
                .first()
                .map_or(0, |result| result.error_code)
        };
        let response = session
            .client
            .ask_settled(node, 0..=2, &request, code)
            .await?;
        let failure = match ErrorCode::from_code(code(&response)) {
            Some(ErrorCode::None) => {
                if session.out.is_json() {
                    session
                        .out
                        .object(&json!({ "group": name, "deleted": true }))?;
                } else {
                    session.out.line(format_args!("deleted {name}"))?;
                }
                continue;
            }
            Some(ErrorCode::GroupIdNotFound) => missing(name),
            Some(ErrorCode::NonEmptyGroup) => {
                let what = format_args!("group {name}");
                Failure::told(what, code(&response), None).hint("stop its members first")
            }
            _ => Failure::told(format_args!("group {name}"), code(&response), None),
        };
        keep_first(&mut failed, failure);
    }
    failed.map_or(Ok(()), Err)
}
