//! Commands that wait for their device: until they are settled, or their time is over.
//!
//! Pure: no clock, no I/O. Every node has all of them, as any may have the device next. Bounded in commands per device, in
//! commands and in bytes; what other nodes took in at the same moment may go over the bound by as much again and no further.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use event::{DeviceId, Millis};

use super::command::{CommandId, IssuedCommand};

/// How long an answer is waited for after the end of a command that went out, milliseconds: an hour, in which a device that lost
/// its radio link comes back to its session.
const LATE_MS: i64 = 3_600_000;
/// For how many commands that went out and are over an answer is waited for: some 6 MB, as their payloads are not kept.
const LATE_MAX: usize = 10_000;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Commands for one device.
    pub per_device: usize,
    /// Commands in all.
    pub commands: usize,
    /// Bytes in all.
    pub bytes: usize,
}

/// There is no room for another command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// As many wait for this device as may (`commands.pending_per_device_max`).
    #[error("as many commands wait for the device as may")]
    Device,
    /// As many wait in all as may (`commands.pending_max`).
    #[error("as many commands wait in all as may")]
    Commands,
    /// As many bytes wait in all as may (`commands.pending_bytes_max`).
    #[error("as many bytes of commands wait in all as may")]
    Bytes,
}

impl Full {
    /// Short name, as in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Device => "pending_per_device_max",
            Self::Commands => "pending_max",
            Self::Bytes => "pending_bytes_max",
        }
    }
}

/// What was done about a command that was heard of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It waits now.
    New(Arc<IssuedCommand>),
    /// It waited already.
    Known,
    /// Its time is over.
    Over,
    /// There is no room, not even for what others take in.
    Dropped(Full),
}

/// The commands that wait.
#[derive(Debug)]
pub(crate) struct Pending {
    limits: Limits,
    /// In the order in which they were heard of.
    by_device: HashMap<DeviceId, Vec<Arc<IssuedCommand>>>,
    devices: HashMap<CommandId, DeviceId>,
    by_end: BTreeSet<(Millis, CommandId)>,
    bytes: usize,
    /// Of those that wait, which went out from this node.
    sent: HashSet<CommandId>,
    /// Went out from this node and are over, without their payloads.
    late: HashMap<CommandId, Arc<IssuedCommand>>,
    late_until: VecDeque<(Millis, CommandId)>,
}

/// A command whose time is over.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) command: Arc<IssuedCommand>,
    /// It went out, and there is no room to wait for its answer.
    pub(crate) unheard: bool,
}

impl Pending {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_device: HashMap::new(),
            devices: HashMap::new(),
            by_end: BTreeSet::new(),
            bytes: 0,
            sent: HashSet::new(),
            late: HashMap::new(),
            late_until: VecDeque::new(),
        }
    }

    /// Whether another command of `bytes` for a device may be taken in.
    pub(crate) fn room(&self, device: &DeviceId, bytes: usize) -> Result<(), Full> {
        self.fits(device, bytes, self.limits)
    }

    /// Enters a command that Kafka holds.
    pub(crate) fn enter(&mut self, command: IssuedCommand, now: Millis) -> Entered {
        if self.devices.contains_key(&command.id) {
            return Entered::Known;
        }
        if command.expires_at <= now {
            return Entered::Over;
        }
        let Limits { per_device, commands, bytes } = self.limits;
        let twice = Limits { per_device: per_device * 2, commands: commands * 2, bytes: bytes * 2 };
        if let Err(full) = self.fits(&command.device_id, command.bytes(), twice) {
            return Entered::Dropped(full);
        }
        let command = Arc::new(command);
        self.bytes += command.bytes();
        self.devices.insert(command.id, command.device_id.clone());
        self.by_end.insert((command.expires_at, command.id));
        self.by_device.entry(command.device_id.clone()).or_default().push(command.clone());
        Entered::New(command)
    }

    /// Forgets a command that needs nobody any more.
    pub(crate) fn settle(&mut self, id: CommandId) -> Option<Arc<IssuedCommand>> {
        self.sent.remove(&id);
        self.late.remove(&id);
        let device = self.devices.remove(&id)?;
        let waiting = self.by_device.get_mut(&device)?;
        let place = waiting.iter().position(|command| command.id == id)?;
        let command = waiting.remove(place);
        if waiting.is_empty() {
            self.by_device.remove(&device);
        }
        self.by_end.remove(&(command.expires_at, id));
        self.bytes -= command.bytes();
        Some(command)
    }

    /// The command went out from this node: its answer is of interest even after its end.
    pub(crate) fn sent(&mut self, id: CommandId) {
        if self.devices.contains_key(&id) {
            self.sent.insert(id);
        }
    }

    /// Forgets every command whose time is over, but for the answers that may still come.
    pub(crate) fn expire(&mut self, now: Millis) -> Vec<Over> {
        while let Some(&(until, id)) = self.late_until.front()
            && until <= now
        {
            self.late_until.pop_front();
            self.late.remove(&id);
        }
        let mut over = Vec::new();
        while let Some(&(end, id)) = self.by_end.first() {
            if end > now {
                break;
            }
            self.by_end.pop_first();
            let sent = self.sent.contains(&id);
            let Some(command) = self.settle(id) else { continue };
            let unheard = sent && !self.wait_for_answer(&command, now);
            over.push(Over { command, unheard });
        }
        over
    }

    /// Whether there is room for that.
    fn wait_for_answer(&mut self, command: &IssuedCommand, now: Millis) -> bool {
        // One that was answered late stands in the order until its time: the order bounds both.
        if self.late_until.len() >= LATE_MAX {
            return false;
        }
        let kept = IssuedCommand { payload: Bytes::new(), ..command.clone() };
        self.late.insert(kept.id, Arc::new(kept));
        self.late_until.push_back((Millis(now.0.saturating_add(LATE_MS)), command.id));
        true
    }

    /// A command that an answer may be of: it waits, or it went out and is over.
    pub(crate) fn answerable(&self, id: CommandId) -> Option<&Arc<IssuedCommand>> {
        self.get(id).or_else(|| self.late.get(&id))
    }

    /// What waits for a device, in the order in which it was heard of.
    pub(crate) fn of_device(&self, device: &DeviceId, now: Millis) -> Vec<Arc<IssuedCommand>> {
        let waiting = self.by_device.get(device).into_iter().flatten();
        waiting.filter(|command| command.expires_at > now).cloned().collect()
    }

    /// One command that waits.
    pub(crate) fn get(&self, id: CommandId) -> Option<&Arc<IssuedCommand>> {
        let device = self.devices.get(&id)?;
        self.by_device.get(device)?.iter().find(|command| command.id == id)
    }

    /// The devices for which something waits.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.by_device.keys().cloned().collect()
    }

    /// Commands and bytes that wait.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.devices.len(), self.bytes)
    }

    fn fits(&self, device: &DeviceId, bytes: usize, limits: Limits) -> Result<(), Full> {
        if self.by_device.get(device).map_or(0, Vec::len) >= limits.per_device {
            Err(Full::Device)
        } else if self.devices.len() >= limits.commands {
            Err(Full::Commands)
        } else if self.bytes + bytes > limits.bytes {
            Err(Full::Bytes)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::command::for_tests;
    use super::*;

    fn limits() -> Limits {
        Limits { per_device: 3, commands: 6, bytes: 1 << 20 }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter { device: u8, end: i64 },
        EnterAgain(usize),
        Settle(usize),
        Time(i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4_u8, 0..100_i64).prop_map(|(device, end)| Step::Enter { device, end }),
            1 => any::<usize>().prop_map(Step::EnterAgain),
            3 => any::<usize>().prop_map(Step::Settle),
            2 => (0..20_i64).prop_map(Step::Time),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a plain list: the same commands wait, in the same order; the bounds hold; nothing is left over.
        #[test]
        fn what_waits_is_what_was_issued_and_neither_settled_nor_over(steps in steps()) {
            let mut pending = Pending::new(limits());
            let mut model: Vec<IssuedCommand> = Vec::new();
            let mut all: Vec<IssuedCommand> = Vec::new();
            let mut now = Millis(0);
            for step in steps {
                match step {
                    Step::Enter { device, end } => {
                        let command = for_tests(&format!("device-{device}"), now.0 + end);
                        let of_device = model.iter().filter(|c| c.device_id == command.device_id).count();
                        let full = of_device >= 6 || model.len() >= 12;
                        let entered = pending.enter(command.clone(), now);
                        match entered {
                            Entered::New(_) => {
                                prop_assert!(end > 0 && !full);
                                model.push(command.clone());
                            }
                            Entered::Over => prop_assert!(end == 0),
                            Entered::Dropped(_) => prop_assert!(full),
                            Entered::Known => prop_assert!(false, "it is new"),
                        }
                        all.push(command);
                    }
                    Step::EnterAgain(pick) if !model.is_empty() => {
                        let known = model[pick % model.len()].clone();
                        prop_assert_eq!(pending.enter(known, now), Entered::Known);
                    }
                    Step::Settle(pick) if !all.is_empty() => {
                        let id = all[pick % all.len()].id;
                        let waited = model.iter().position(|command| command.id == id);
                        prop_assert_eq!(pending.settle(id).is_some(), waited.is_some());
                        waited.map(|place| model.remove(place));
                    }
                    Step::EnterAgain(_) | Step::Settle(_) => {}
                    Step::Time(span) => {
                        now = Millis(now.0 + span);
                        let over = pending.expire(now).len();
                        let before = model.len();
                        model.retain(|command| command.expires_at > now);
                        prop_assert_eq!(over, before - model.len());
                    }
                }
                let bytes: usize = model.iter().map(IssuedCommand::bytes).sum();
                prop_assert_eq!(pending.size(), (model.len(), bytes));
                prop_assert_eq!(pending.by_end.len(), model.len());
            }
            let mut expected: BTreeMap<DeviceId, Vec<CommandId>> = BTreeMap::new();
            for command in model.iter().filter(|command| command.expires_at > now) {
                expected.entry(command.device_id.clone()).or_default().push(command.id);
            }
            prop_assert_eq!(pending.devices().len(), expected.len());
            for (device, ids) in expected {
                let found: Vec<CommandId> = pending.of_device(&device, now).iter().map(|c| c.id).collect();
                prop_assert_eq!(found, ids);
            }
        }
    }

    #[test]
    fn an_answer_is_waited_for_after_the_end_of_what_went_out_and_not_for_ever() {
        let mut pending = Pending::new(limits());
        let [went_out, stayed, answered] = ["a", "b", "c"].map(|device| for_tests(device, 10));
        for command in [&went_out, &stayed, &answered] {
            pending.enter(command.clone(), Millis(0));
        }
        pending.sent(went_out.id);
        pending.sent(answered.id);
        pending.settle(answered.id);
        assert_eq!(pending.expire(Millis(10)).iter().filter(|over| !over.unheard).count(), 2);
        assert!(pending.answerable(stayed.id).is_none() && pending.answerable(answered.id).is_none());
        let late = pending.answerable(went_out.id).expect("it went out").clone();
        assert_eq!((late.id, late.payload.len()), (went_out.id, 0));
        assert!(
            pending.get(went_out.id).is_none() && pending.size() == (0, 0),
            "it does not wait for its device"
        );
        pending.expire(Millis(9 + LATE_MS));
        assert!(pending.answerable(went_out.id).is_some());
        pending.expire(Millis(10 + LATE_MS));
        assert!(pending.answerable(went_out.id).is_none() && pending.late_until.is_empty());
    }

    #[test]
    fn what_is_waited_for_after_the_end_is_bounded() {
        let wide = Limits { per_device: 2 * LATE_MAX, commands: 2 * LATE_MAX, bytes: usize::MAX / 2 };
        let mut pending = Pending::new(wide);
        for _ in 0..=LATE_MAX {
            let command = for_tests("a", 10);
            pending.sent(command.id);
            pending.enter(command.clone(), Millis(0));
            pending.sent(command.id);
        }
        let over = pending.expire(Millis(10));
        assert_eq!(over.iter().filter(|over| over.unheard).count(), 1);
        assert!(pending.late.len() == LATE_MAX && pending.sent.is_empty());
    }

    #[test]
    fn a_full_device_does_not_fill_the_others() {
        let mut pending = Pending::new(limits());
        for _ in 0..3 {
            assert!(matches!(pending.enter(for_tests("a", 10), Millis(0)), Entered::New(_)));
        }
        let (a, b) = (DeviceId::new("a").expect("an id"), DeviceId::new("b").expect("an id"));
        assert_eq!(pending.room(&a, 1), Err(Full::Device));
        assert_eq!(pending.room(&b, 1), Ok(()));
        assert_eq!(pending.room(&b, 1 << 20), Err(Full::Bytes));
        for _ in 0..3 {
            pending.enter(for_tests("c", 10), Millis(0));
        }
        assert_eq!(pending.room(&b, 1), Err(Full::Commands));
    }
}
