//! `ottla serve` as an operator meets it, with real processes: what it refuses and how, where settings come from,
//! the default start, how it stops, and the pages of the metrics listener.
//!
//! Nothing here sleeps: a test waits for a line of output, an answer or the end of a process.

mod defaults;
mod pages;
mod refusals;
mod settings;
mod stops;
