//! Places in partitions, asked of their leaders: what `--from` and `--to` stand for.
//!
//! Used by `consume` and `group reset`.

use std::collections::BTreeMap;

use crate::cli::client::{At, Client, Partition};
use crate::cli::failure::Result;
use crate::cli::when::When;

/// The first offset of a partition and the one behind its last.
pub async fn bounds(client: &mut Client, topic: &str, index: i32) -> Result<(i64, i64)> {
    let key = keys(topic, &[index]);
    let first = client.offsets(&key, At::Earliest).await?;
    let end = client.offsets(&key, At::Latest).await?;
    let only = |found: BTreeMap<Partition, Option<i64>>| found.into_values().flatten().next();
    Ok((only(first).unwrap_or(0), only(end).unwrap_or(0)))
}

/// What to say of an offset outside of these bounds.
pub fn not_there(topic: &str, index: i32, offset: i64, (first, end): (i64, i64)) -> String {
    format!(
        "topic {topic}, partition {index}: offset {offset} is not there, the partition goes from {first} to {end}"
    )
}

/// The offsets that a place stands for; no record so late is the end.
pub async fn resolve(
    client: &mut Client,
    partitions: &[Partition],
    when: When,
) -> Result<BTreeMap<Partition, i64>> {
    let at = match when {
        When::Offset(offset) => {
            return Ok(partitions.iter().map(|key| (key.clone(), offset)).collect());
        }
        When::BeforeEnd(_) => At::Latest,
        When::At(at) => at,
    };
    let found = client.offsets(partitions, at).await?;
    let late: Vec<Partition> = found
        .iter()
        .filter(|(_, offset)| offset.is_none())
        .map(|(key, _)| key.clone())
        .collect();
    let ends = if late.is_empty() {
        BTreeMap::new()
    } else {
        client.offsets(&late, At::Latest).await?
    };
    let firsts = if matches!(when, When::BeforeEnd(_)) {
        client.offsets(partitions, At::Earliest).await?
    } else {
        BTreeMap::new()
    };
    let resolved = found.into_iter().map(|(key, offset)| {
        let end = || ends.get(&key).copied().flatten().unwrap_or(0);
        let mut offset = offset.unwrap_or_else(end);
        if let When::BeforeEnd(count) = when {
            let first = firsts.get(&key).copied().flatten().unwrap_or(0);
            offset = offset.saturating_sub(count).max(first);
        }
        (key, offset)
    });
    Ok(resolved.collect())
}

/// The partitions of one topic.
pub fn keys(topic: &str, indexes: &[i32]) -> Vec<Partition> {
    indexes
        .iter()
        .map(|index| (topic.to_owned(), *index))
        .collect()
}
