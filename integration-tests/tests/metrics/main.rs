//! `/metrics` of a live broker: which names it has and which not, consumer groups with their lag, how far it goes into
//! detail, and what a scrape costs with 10,000 partitions.
//!
//! Nothing here sleeps: a test waits for an answer or for a page that shows what it waits for.

mod cost;
mod groups;
mod names;
mod requests;
