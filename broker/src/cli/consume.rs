//! `ottla consume`: records of a topic, alone or as a member of a group.
//!
//! One loop: join if needed, heartbeat and commit when due, fetch, print. Positions move when a record is printed and
//! are committed only after standard output has it, so that a group's records are seen at least once. A step may be
//! given up at any await (Ctrl-C): printing has none inside.

mod fetch;
pub mod places;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::client::{At, Client, Partition};
use super::failure::{Failure, Kind, Result};
use super::format::Template;
use super::member::{Beat, HEARTBEAT_INTERVAL, Member};
use super::output::{Progress, counted, remark};
use super::run::Session;
use super::topic::topic_partitions;
use super::when::When;
use places::{bounds, keys, not_there, resolve};

/// Kafka's `auto.commit.interval.ms`.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
/// Options of `consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The topic
    pub topic: String,
    /// Share the partitions with the other members of this group and commit what was read
    #[arg(short = 'G', long)]
    pub group: Option<String>,
    /// Where to begin: earliest, latest, an offset, -N before the end, a time (RFC 3339 or @EPOCH_MS) or an age (-1h);
    /// in a group, where nothing is committed
    #[arg(
        short = 'o',
        long,
        default_value = "earliest",
        value_name = "WHERE",
        allow_hyphen_values = true
    )]
    pub from: String,
    /// Only this partition; may be repeated
    #[arg(short = 'p', long = "partition", conflicts_with = "group")]
    pub partitions: Vec<i32>,
    /// End after so many records
    #[arg(short = 'c', long)]
    pub max: Option<u64>,
    /// End behind the last record there was at the start, instead of waiting for more
    #[arg(short = 'e', long)]
    pub exit: bool,
    /// How a record is printed: %k key, %s value, %h headers, %t topic, %p partition, %o offset, %T timestamp in ms,
    /// %K and %S sizes, \n and \t
    #[arg(short = 'f', long, default_value = "%s\\n", conflicts_with = "json")]
    pub format: String,
}

/// Runs it.
pub async fn run(session: &mut Session, args: &ConsumeArgs) -> Result<()> {
    let from = When::parse(&args.from, session.env.now_ms())?;
    if args.group.is_some() && matches!(from, When::Offset(_) | When::BeforeEnd(_)) {
        return Err(Failure::usage(
            "--from with --group is earliest, latest or a time, for partitions without a commit; move a group with ottla group reset",
        ));
    }
    let print = if session.out.is_json() {
        Print::Json
    } else {
        Print::Template(Template::parse(&args.format)?)
    };
    let mut consumer = Consumer::new(session, args, from, print).await?;
    let (mut interrupt, mut terminate) = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            return Err(Failure::refused(format_args!(
                "cannot listen for signals: {error}"
            )));
        }
    };
    let outcome = loop {
        let step = tokio::select! {
            biased;
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
            step = consumer.step(session) => step,
        };
        match step {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    let left = consumer.finish(session).await;
    outcome.and(left)
}

enum Print {
    Template(Template),
    Json,
}

struct Consumer {
    topic: String,
    from: When,
    print: Print,
    left: Option<u64>,
    /// Where each partition ended at the start; with `--exit` nothing behind it is printed.
    ends: Option<BTreeMap<i32, i64>>,
    positions: BTreeMap<i32, i64>,
    membership: Option<Membership>,
    /// Since when no broker answers.
    unreachable_since: Option<Instant>,
    scratch: Vec<u8>,
    printed: u64,
    progress: Progress,
}

struct Membership {
    member: Member,
    joined: bool,
    beaten: Instant,
    committed_at: Instant,
    committed: BTreeMap<i32, i64>,
}

impl Consumer {
    async fn new(
        session: &mut Session,
        args: &ConsumeArgs,
        from: When,
        print: Print,
    ) -> Result<Self> {
        let client = &mut session.client;
        let topic = client.topic(&args.topic, false).await?;
        let all = topic_partitions(&topic);
        if let Some(unknown) = args.partitions.iter().find(|index| !all.contains(index)) {
            return Err(Failure::refused(format_args!(
                "topic {} has no partition {unknown}: they go from 0 to {}",
                args.topic,
                all.len().saturating_sub(1)
            )));
        }
        let chosen = if args.partitions.is_empty() {
            &all
        } else {
            &args.partitions
        };
        let ends = if args.exit {
            let keys = keys(&args.topic, chosen);
            let ends = client.offsets(&keys, At::Latest).await?;
            Some(
                ends.into_iter()
                    .map(|((_, index), end)| (index, end.unwrap_or(0)))
                    .collect(),
            )
        } else {
            None
        };
        let now = Instant::now();
        let membership = args.group.as_ref().map(|group| Membership {
            member: Member::new(group, &args.topic),
            joined: false,
            beaten: now,
            committed_at: now,
            committed: BTreeMap::new(),
        });
        let mut consumer = Self {
            topic: args.topic.clone(),
            from,
            print,
            left: args.max,
            ends,
            positions: BTreeMap::new(),
            membership,
            unreachable_since: None,
            scratch: Vec::new(),
            printed: 0,
            progress: Progress::new(),
        };
        if consumer.membership.is_none() {
            consumer.positions = consumer.begin(client, chosen).await?;
        }
        Ok(consumer)
    }

    /// One turn of the loop; breaks when there is nothing more to do. A broker that is away is waited for as long as
    /// any answer.
    async fn step(&mut self, session: &mut Session) -> Result<ControlFlow<()>> {
        match self.try_step(session).await {
            Err(failure) if failure.kind == Kind::Unreachable => {
                let since = *self.unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= session.client.timeout() {
                    return Err(failure);
                }
                session.out.flush()?;
                session.client.pause().await;
                Ok(ControlFlow::Continue(()))
            }
            outcome => {
                self.unreachable_since = None;
                outcome
            }
        }
    }

    async fn try_step(&mut self, session: &mut Session) -> Result<ControlFlow<()>> {
        if self.left == Some(0) {
            return Ok(ControlFlow::Break(()));
        }
        self.take_part(session).await?;
        if self.is_at_the_end() {
            return Ok(ControlFlow::Break(()));
        }
        self.fetch(session).await?;
        session.out.flush()?;
        if !std::io::stdout().is_terminal() {
            let (printed, topic) = (self.printed, &self.topic);
            self.progress
                .show(|_| format!("{} of {topic}", counted(printed, "record")));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What a member owes its group: join, heartbeat, commit.
    async fn take_part(&mut self, session: &mut Session) -> Result<()> {
        let Some(membership) = &mut self.membership else {
            return Ok(());
        };
        let client = &mut session.client;
        if !membership.joined {
            let assigned = membership.member.join(client).await?;
            let now = Instant::now();
            (
                membership.joined,
                membership.beaten,
                membership.committed_at,
            ) = (true, now, now);
            let indexes: Vec<i32> = assigned
                .into_iter()
                .filter(|(topic, _)| *topic == self.topic)
                .map(|(_, index)| index)
                .collect();
            self.take_over(client, indexes).await?;
            return Ok(());
        }
        if membership.beaten.elapsed() >= HEARTBEAT_INTERVAL {
            membership.beaten = Instant::now();
            match membership.member.heartbeat(client).await? {
                Beat::Fine => {}
                Beat::Rebalance => {
                    self.commit(session).await?;
                    self.lose_place();
                    return Ok(());
                }
                Beat::Lost => {
                    self.lose_place();
                    return Ok(());
                }
            }
        }
        if self
            .membership
            .as_ref()
            .is_some_and(|membership| membership.committed_at.elapsed() >= COMMIT_INTERVAL)
        {
            self.commit(session).await?;
        }
        Ok(())
    }

    fn lose_place(&mut self) {
        if let Some(membership) = &mut self.membership {
            membership.joined = false;
        }
    }

    /// Positions of newly assigned partitions: the committed ones, or where `--from` says.
    async fn take_over(&mut self, client: &mut Client, indexes: Vec<i32>) -> Result<()> {
        let Some(membership) = &mut self.membership else {
            return Ok(());
        };
        // Known again if partitions came meanwhile.
        client.topic(&self.topic, false).await?;
        let keys = keys(&self.topic, &indexes);
        let committed = if keys.is_empty() {
            BTreeMap::new()
        } else {
            client
                .committed(membership.member.group(), Some(&keys))
                .await?
        };
        let committed: BTreeMap<i32, i64> = committed
            .into_iter()
            .map(|((_, index), offset)| (index, offset))
            .collect();
        let missing: Vec<i32> = indexes
            .into_iter()
            .filter(|index| !committed.contains_key(index))
            .collect();
        membership.committed = committed.clone();
        self.positions = self.begin(client, &missing).await?;
        self.positions.extend(committed);
        Ok(())
    }

    /// The offsets that `--from` stands for.
    async fn begin(&self, client: &mut Client, indexes: &[i32]) -> Result<BTreeMap<i32, i64>> {
        if indexes.is_empty() {
            return Ok(BTreeMap::new());
        }
        if let When::Offset(offset) = self.from {
            for index in indexes {
                let (first, end) = bounds(client, &self.topic, *index).await?;
                if !(first..=end).contains(&offset) {
                    let what = not_there(&self.topic, *index, offset, (first, end));
                    return Err(Failure::refused(what).hint(
                        "choose with --partition; a time in milliseconds is written @1700000000000",
                    ));
                }
            }
        }
        let resolved = resolve(client, &keys(&self.topic, indexes), self.from).await?;
        Ok(resolved
            .into_iter()
            .map(|((_, index), offset)| (index, offset))
            .collect())
    }

    async fn commit(&mut self, session: &mut Session) -> Result<()> {
        session.out.flush()?;
        let Some(membership) = &mut self.membership else {
            return Ok(());
        };
        membership.committed_at = Instant::now();
        let moved = self
            .positions
            .iter()
            .filter(|(index, offset)| membership.committed.get(*index) != Some(*offset));
        let offsets: BTreeMap<Partition, i64> = moved
            .map(|(index, offset)| ((self.topic.clone(), *index), *offset))
            .collect();
        if offsets.is_empty() {
            return Ok(());
        }
        match membership
            .member
            .commit(&mut session.client, &offsets)
            .await?
        {
            Beat::Fine => membership.committed.clone_from(&self.positions),
            // Heard at the next heartbeat, which is due now.
            Beat::Rebalance => membership.beaten -= HEARTBEAT_INTERVAL,
            Beat::Lost => {
                remark("the group went on without this member: some records may be seen again");
                membership.joined = false;
            }
        }
        Ok(())
    }

    fn is_at_the_end(&self) -> bool {
        let Some(ends) = &self.ends else { return false };
        self.positions
            .iter()
            .all(|(index, position)| ends.get(index).is_none_or(|end| position >= end))
    }

    /// Shows what is printed, commits it and leaves the group.
    async fn finish(&mut self, session: &mut Session) -> Result<()> {
        self.progress.end();
        session.out.flush()?;
        let joined = self
            .membership
            .as_ref()
            .is_some_and(|membership| membership.joined);
        let committed = if joined {
            self.commit(session).await
        } else {
            Ok(())
        };
        let left = match &mut self.membership {
            Some(membership) => membership.member.leave(&mut session.client).await,
            None => Ok(()),
        };
        committed.and(left)
    }
}
