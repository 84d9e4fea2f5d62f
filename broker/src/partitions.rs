//! Which partitions live here: the bridge from names and topic ids to partition logs. Filled from the
//! metadata image by `metadata_log.rs`, read by every handler; never a source of truth.

use std::sync::Arc;

use dashmap::DashMap;
use ottla_coordinator::metadata::Image;
use ottla_storage::log::Partition;
use uuid::Uuid;

use crate::topic_config::TopicConfig;

/// A topic with its local partition logs.
#[derive(Debug)]
pub struct LocalTopic {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions, by index.
    pub partitions: Vec<Arc<Partition>>,
    /// Its configuration, defaults included.
    pub config: Arc<TopicConfig>,
}

impl LocalTopic {
    /// The log of one partition; `None` for an index that the topic does not have.
    pub fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// All topics with local partitions.
#[derive(Debug, Default)]
pub struct Partitions {
    topics: DashMap<Uuid, Arc<LocalTopic>>,
    names: DashMap<Arc<str>, Uuid>,
}

impl Partitions {
    /// A topic by name.
    pub fn by_name(&self, name: &str) -> Option<Arc<LocalTopic>> {
        let id = *self.names.get(name)?.value();
        self.by_id(&id)
    }

    /// A topic by id.
    pub fn by_id(&self, id: &Uuid) -> Option<Arc<LocalTopic>> {
        self.topics.get(id).map(|entry| entry.value().clone())
    }

    /// Every topic, in no order.
    pub fn all(&self) -> Vec<Arc<LocalTopic>> {
        self.topics
            .iter()
            .map(|entry| entry.value().clone())
            .collect()
    }

    pub(crate) fn put(&self, topic: LocalTopic) {
        self.names.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, Arc::new(topic));
    }

    /// Cuts a topic off: nobody finds it any more. Its name may already belong to a newer one.
    pub(crate) fn remove(&self, id: &Uuid) -> Option<Arc<LocalTopic>> {
        let (_, topic) = self.topics.remove(id)?;
        self.names.remove_if(&topic.name, |_, held| held == id);
        Some(topic)
    }

    /// Ids that are here but not in `image`.
    pub(crate) fn stray(&self, image: &Image) -> Vec<Uuid> {
        self.topics
            .iter()
            .map(|entry| *entry.key())
            .filter(|id| !image.topics.contains_key(id))
            .collect()
    }
}
