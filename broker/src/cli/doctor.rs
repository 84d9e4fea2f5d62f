//! `ottla doctor`: can clients work with this cluster from here, and does its machine have room?
//!
//! Looks from where it is run, over the wire and the metrics page only, and changes nothing. Each line is ok, warn or
//! fail, and what is not ok says the way out. A broker that cannot be reached at all is the caller's exit code 3; any
//! fail is 1.

mod machine;

use std::time::Duration;

use clap::Args;
use kafka_protocol::messages::{
    DescribeLogDirsRequest, MetadataRequest, MetadataResponse, ProduceRequest,
};
use kafka_protocol::protocol::Request;
use serde_json::json;

use super::client::{Address, Connection, Node};
use super::failure::{Failure, Kind, Result};
use super::output::size;
use super::run::Session;

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Where the metrics page is; port 9404 of the broker without it
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// The lines so far.
#[derive(Default)]
pub(super) struct Report {
    lines: Vec<(Verdict, &'static str, String, Option<String>)>,
}

impl Report {
    pub(super) fn ok(&mut self, check: &'static str, found: impl ToString) {
        self.lines
            .push((Verdict::Ok, check, found.to_string(), None));
    }

    pub(super) fn warn(
        &mut self,
        check: &'static str,
        found: impl ToString,
        way_out: impl ToString,
    ) {
        let way_out = Some(way_out.to_string());
        self.lines
            .push((Verdict::Warn, check, found.to_string(), way_out));
    }

    fn fail(&mut self, check: &'static str, found: impl ToString, way_out: impl ToString) {
        let way_out = Some(way_out.to_string());
        self.lines
            .push((Verdict::Fail, check, found.to_string(), way_out));
    }

    fn print(&self, session: &mut Session) -> Result<()> {
        for (verdict, check, found, way_out) in &self.lines {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "fail",
            };
            if session.out.is_json() {
                session.out.object(&json!({
                    "verdict": verdict, "check": check, "found": found, "way_out": way_out,
                }))?;
                continue;
            }
            session.out.line(format_args!(
                "{verdict:<4}  {check}: {}",
                super::on_one_line(found)
            ))?;
            if let Some(way_out) = way_out {
                session.out.line(format_args!("      -> {way_out}"))?;
            }
        }
        let failed = self
            .lines
            .iter()
            .filter(|line| line.0 == Verdict::Fail)
            .count();
        if failed == 0 {
            return Ok(());
        }
        Err(Failure::refused(format_args!(
            "{failed} of {} checks failed",
            self.lines.len()
        )))
    }
}

/// Runs it.
pub async fn run(session: &mut Session, args: &DoctorArgs) -> Result<()> {
    let metrics_address = args.metrics.as_deref().map(Address::parse).transpose()?;
    let mut report = Report::default();
    let timeout = session.client.timeout();
    let mut reached = None;
    let mut away = None;
    for address in session.client.bootstrap().to_vec() {
        match reach(&mut report, &address, timeout).await {
            Ok(connection) => reached = reached.or(Some(connection)),
            Err(failure) => away = away.or(Some(failure)),
        }
    }
    let Some(mut connection) = reached else {
        let lost = report.print(session).err();
        session.out.flush()?;
        return Err(away
            .or(lost)
            .unwrap_or_else(|| Failure::usage("--bootstrap names no broker")));
    };
    let metadata = cluster(&mut connection, timeout).await?;
    let cluster_id = metadata.cluster_id.as_deref().unwrap_or("none").to_owned();
    report.ok(
        "cluster",
        format_args!(
            "id {cluster_id}, {} broker(s), {} topic(s)",
            metadata.brokers.len(),
            metadata.topics.len()
        ),
    );
    for broker in &metadata.brokers {
        advertised(
            &mut report,
            &connection,
            broker.node_id.0,
            &broker.host,
            broker.port,
            &cluster_id,
            timeout,
        )
        .await;
    }
    topics(&mut report, &metadata);
    log_dirs(&mut report, session, &metadata).await;
    let local = connection
        .peer()
        .is_some_and(|peer| peer.ip().is_loopback());
    let metrics_address = metrics_address.unwrap_or_else(|| Address {
        host: connection.address().host.clone(),
        port: 9404,
    });
    machine::metrics(&mut report, &metrics_address, session.env.now_ms(), timeout).await;
    if local {
        machine::limits(&mut report, session.env.now_ms());
    }
    report.print(session)
}

async fn reach(report: &mut Report, address: &Address, timeout: Duration) -> Result<Connection> {
    let check = "reachable";
    match address.resolve(timeout).await {
        Ok(found) if !found.is_empty() => {}
        Ok(_) => {
            let failure = Failure::unreachable(format_args!("{address} resolves to nothing"));
            report.fail(
                check,
                &failure,
                "write an address, or put the name into DNS or /etc/hosts",
            );
            return Err(failure);
        }
        Err(failure) => {
            report.fail(
                check,
                &failure,
                "write an address, or put the name into DNS or /etc/hosts",
            );
            return Err(failure);
        }
    }
    match Connection::open(address, timeout).await {
        Ok(connection) => {
            let missing = connection.versions(ProduceRequest::KEY).is_none();
            if missing {
                report.fail(
                    check,
                    format_args!(
                        "{address} answers, but serves no Produce: it may be a controller"
                    ),
                    "give a broker's listener to --bootstrap",
                );
            } else {
                report.ok(check, format_args!("{address} answers"));
            }
            Ok(connection)
        }
        Err(failure) => {
            report.fail(
                check,
                &failure,
                format_args!(
                    "start a broker there (ottla serve), make it listen beyond loopback (listeners=PLAINTEXT://0.0.0.0:{}), or open the firewall",
                    address.port
                ),
            );
            Err(failure)
        }
    }
}

async fn cluster(connection: &mut Connection, timeout: Duration) -> Result<MetadataResponse> {
    let request = MetadataRequest::default().with_topics(None);
    connection.ask(4..=12, &request, timeout).await
}

/// Whether clients that are told this address end up at the same cluster.
async fn advertised(
    report: &mut Report,
    from: &Connection,
    id: i32,
    host: &str,
    port: i32,
    cluster_id: &str,
    timeout: Duration,
) {
    let check = "advertised listener";
    let way_out = "set advertised.listeners of that broker to PLAINTEXT://HOST:PORT with a host that its clients can reach";
    let address = match Address::new(host, port) {
        Ok(address) => address,
        Err(failure) => return report.fail(check, failure, way_out),
    };
    let who = format!("broker {id} tells clients to connect to {address}");
    if matches!(host, "0.0.0.0" | "::" | "") {
        return report.fail(check, format_args!("{who}, which is no address"), way_out);
    }
    let from_outside = from.peer().is_some_and(|peer| !peer.ip().is_loopback());
    if address.is_loopback() && from_outside {
        return report.fail(
            check,
            format_args!("{who}: for a client on another machine that is its own machine"),
            way_out,
        );
    }
    if let Err(failure) = address.resolve(timeout).await {
        return report.fail(check, format_args!("{who}, and {failure}"), way_out);
    }
    let mut connection = match Connection::open(&address, timeout).await {
        Ok(connection) => connection,
        Err(failure) => return report.fail(check, format_args!("{who}, and {failure}"), way_out),
    };
    let there = match cluster(&mut connection, timeout).await {
        Ok(there) => there,
        Err(failure) => return report.fail(check, format_args!("{who}, and {failure}"), way_out),
    };
    let other = there.cluster_id.as_deref().unwrap_or("none");
    if other != cluster_id {
        return report.fail(
            check,
            format_args!("{who}, where another cluster answers: {other} instead of {cluster_id}"),
            way_out,
        );
    }
    if address.is_loopback() {
        report.ok(
            check,
            format_args!("{who}, which is this cluster; clients on this machine only"),
        );
    } else {
        report.ok(check, format_args!("{who}, which is this cluster"));
    }
}

fn topics(report: &mut Report, metadata: &MetadataResponse) {
    let partitions = || {
        metadata.topics.iter().flat_map(|topic| {
            let name = topic.name.as_deref().map_or("", |name| name.as_str());
            topic
                .partitions
                .iter()
                .map(move |partition| (name, partition))
        })
    };
    let leaderless: Vec<_> = partitions()
        .filter(|(_, partition)| partition.leader_id.0 < 0)
        .collect();
    let behind = partitions()
        .filter(|(_, partition)| partition.isr_nodes.len() < partition.replica_nodes.len());
    if let Some((name, partition)) = leaderless.first() {
        report.fail(
            "partitions",
            format_args!(
                "{} without a leader, {name} [{}] for one",
                leaderless.len(),
                partition.partition_index
            ),
            "start the brokers that hold them: ottla topic describe shows which",
        );
        return;
    }
    match behind.count() {
        0 => report.ok(
            "partitions",
            format_args!(
                "{}, all with a leader and all replicas in sync",
                partitions().count()
            ),
        ),
        count => report.warn(
            "partitions",
            format_args!("{count} with replicas out of sync"),
            "ottla topic describe shows which; see the log of the brokers that lag",
        ),
    }
}

/// Free space as the brokers see it (KIP-827).
async fn log_dirs(report: &mut Report, session: &mut Session, metadata: &MetadataResponse) {
    let check = "disk";
    if let Err(failure) = session.client.metadata(Some(&[]), false).await {
        return report.warn(check, failure, "try again");
    }
    let unknown = "look at the free space where the broker's log.dirs are";
    for broker in &metadata.brokers {
        let id = broker.node_id.0;
        let request = DescribeLogDirsRequest::default().with_topics(Some(Vec::new()));
        let response = match session.client.ask(Node::Id(id), 4..=4, &request).await {
            Ok(response) => response,
            // The listener's own line says why.
            Err(failure) if failure.kind == Kind::Unreachable => continue,
            Err(_) => {
                report.warn(
                    check,
                    format_args!("broker {id} does not tell its free space"),
                    unknown,
                );
                continue;
            }
        };
        if response.error_code != 0 {
            let failure = Failure::told(format_args!("broker {id}"), response.error_code, None);
            report.warn(check, failure, unknown);
            continue;
        }
        for dir in response.results {
            let place = format!("broker {id}, {}", dir.log_dir.as_str());
            if dir.error_code != 0 {
                let failure = Failure::told(&place, dir.error_code, None);
                report.fail(
                    check,
                    failure,
                    "see the broker's log; the directory has to be readable and its disk whole",
                );
                continue;
            }
            let (Ok(total), Ok(free)) = (
                u64::try_from(dir.total_bytes),
                u64::try_from(dir.usable_bytes),
            ) else {
                report.warn(
                    check,
                    format_args!("{place} does not tell its free space"),
                    unknown,
                );
                continue;
            };
            let found = format!("{place}: {} free of {}", size(free), size(total));
            let more = "make room, or move log.dirs to a larger disk: a full disk refuses writes";
            match disk_verdict(total, free) {
                Verdict::Ok => report.ok(check, found),
                Verdict::Warn => report.warn(check, found, more),
                Verdict::Fail => report.fail(check, found, more),
            }
        }
    }
}

/// A full disk stops writes; a tenth or 1 GiB is when to look.
fn disk_verdict(total: u64, free: u64) -> Verdict {
    const LITTLE: u64 = 1 << 30;
    const NOTHING: u64 = 64 << 20;
    if free < NOTHING {
        Verdict::Fail
    } else if free < LITTLE || free < total / 10 {
        Verdict::Warn
    } else {
        Verdict::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_warns_and_none_fails() {
        const GIB: u64 = 1 << 30;
        assert_eq!(disk_verdict(100 * GIB, 50 * GIB), Verdict::Ok);
        assert_eq!(disk_verdict(100 * GIB, 5 * GIB), Verdict::Warn);
        assert_eq!(disk_verdict(2 * GIB, GIB / 2), Verdict::Warn);
        assert_eq!(disk_verdict(100 * GIB, 1 << 20), Verdict::Fail);
    }
}
