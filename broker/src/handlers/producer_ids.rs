//! InitProducerId: ids for idempotent producers, taken from blocks that the metadata log gives out, so that an
//! id is never given twice, not even after a crash.
//!
//! Versions 0..=5. 2 is flexible; 3 lets a producer present the id and epoch it has (KIP-360), which matters to
//! transactions only; 4 and 5 change what errors mean to transactional clients.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use ottla_coordinator::metadata::{Command, Reply};
use ottla_protocol::error_code::ErrorCode;
use tokio::sync::Mutex;

use crate::router::Ctx;

/// Ids in a block (Kafka's `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
const BLOCK: i32 = 1000;

/// The block this broker hands out from; lost with a restart, which only leaves a gap.
#[derive(Debug, Default)]
pub struct ProducerIds {
    left: Mutex<std::ops::Range<i64>>,
}

/// Handles InitProducerId. A transactional id is refused for good until transactions exist.
pub async fn init_producer_id(ctx: Ctx, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |code: ErrorCode| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    // An id without an epoch, or the reverse (Kafka's `handleInitProducerIdRequest`).
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return refused(ErrorCode::InvalidRequest);
    }
    if let Some(id) = &request.transactional_id {
        if id.0.is_empty() {
            return refused(ErrorCode::InvalidRequest);
        }
        let timeout = request.transaction_timeout_ms;
        if timeout <= 0 || timeout > ctx.broker.config.transaction_max_timeout_ms {
            return refused(ErrorCode::InvalidTransactionTimeout);
        }
        // Not retriable: a producer that asks for transactions shall say so, not wait for ever.
        return refused(ErrorCode::UnsupportedVersion);
    }
    if ctx.broker.disk.refusal().is_some() {
        // Whoever asks wants to write. Clients try again.
        return refused(ErrorCode::KafkaStorageError);
    }
    match next(&ctx).await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0),
        Err(code) => refused(code),
    }
}

async fn next(ctx: &Ctx) -> Result<i64, ErrorCode> {
    // Held across the proposal on purpose: a second caller waits for the same block. It is an async lock.
    let mut left = ctx.broker.producer_ids.left.lock().await;
    if left.is_empty() {
        let command = Command::AllocateProducerIds {
            broker_id: ctx.broker.identity.node_id,
            broker_epoch: ctx.broker.broker_epoch(),
            count: BLOCK,
        };
        match ctx.broker.metadata.propose(command).await? {
            Reply::ProducerIds { first, count } => *left = first..first + i64::from(count),
            Reply::Failed(error) => return Err(crate::error::metadata_error(&error)),
            _ => return Err(ErrorCode::UnknownServerError),
        }
    }
    left.next().ok_or(ErrorCode::UnknownServerError)
}
