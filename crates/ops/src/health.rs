//! Readiness: named conditions, all of which must hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The conditions of one role. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Health {
    conditions: Arc<Mutex<Vec<Condition>>>,
}

/// One condition, for example "kafka answers". It does not hold until somebody says so.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    holds: Arc<AtomicBool>,
}

impl Health {
    /// Adds a condition; it does not hold yet.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, holds: Arc::new(AtomicBool::new(false)) };
        self.lock().push(condition.clone());
        condition
    }

    /// Every condition with its state.
    pub fn conditions(&self) -> Vec<(&'static str, bool)> {
        self.lock().iter().map(|condition| (condition.name, condition.holds())).collect()
    }

    /// Whether every condition holds. A role that has not said what it needs is not ready.
    pub fn is_ready(&self) -> bool {
        let conditions = self.lock();
        !conditions.is_empty() && conditions.iter().all(Condition::holds)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Condition>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// Says whether it holds now; a change is logged, once.
    pub fn set(&self, holds: bool) {
        if self.holds.swap(holds, Ordering::Relaxed) != holds {
            if holds {
                tracing::info!(condition = self.name, "holds");
            } else {
                tracing::warn!(condition = self.name, "does not hold: not ready");
            }
        }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Health;

    #[test]
    fn ready_is_every_condition() {
        let health = Health::default();
        assert!(!health.is_ready(), "nothing is known yet");
        let (kafka, schema) = (health.condition("kafka"), health.condition("schema"));
        kafka.set(true);
        assert!(!health.is_ready());
        schema.set(true);
        assert!(health.is_ready());
        kafka.set(false);
        assert_eq!(health.conditions(), [("kafka", false), ("schema", true)]);
    }
}
