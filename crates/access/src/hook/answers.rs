//! Answers that are remembered: bounded, each for its time.
//!
//! Two halves: what is asked for moves to the young half; when that is full the old one is forgotten and they change places.
//! So what is in use stays, at the cost of a look-up, and nothing has to be sorted.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Answer;
use crate::principal::Fingerprint;

pub(super) struct Answers {
    half_max: usize,
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    young: HashMap<Fingerprint, (Answer, Instant)>,
    old: HashMap<Fingerprint, (Answer, Instant)>,
}

impl Answers {
    pub(super) fn new(answers_max: u32) -> Self {
        Self { half_max: usize::try_from(answers_max / 2).unwrap_or(usize::MAX), halves: Mutex::default() }
    }

    pub(super) fn get(&self, id: &Fingerprint, now: Instant) -> Option<Answer> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((answer, until)) = halves.young.get(id) {
            return is_good(answer, *until, now).then(|| answer.clone());
        }
        let (answer, until) = halves.old.remove(id)?;
        if !is_good(&answer, until, now) {
            return None;
        }
        self.insert(&mut halves, *id, (answer.clone(), until));
        Some(answer)
    }

    pub(super) fn put(&self, id: Fingerprint, answer: Answer, now: Instant, keep: Duration) {
        if self.half_max == 0 || keep.is_zero() {
            return;
        }
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        self.insert(&mut halves, id, (answer, now + keep));
    }

    fn insert(&self, halves: &mut Halves, id: Fingerprint, entry: (Answer, Instant)) {
        if halves.young.len() >= self.half_max && !halves.young.contains_key(&id) {
            halves.old = mem::take(&mut halves.young);
        }
        halves.old.remove(&id);
        halves.young.insert(id, entry);
    }
}

fn is_good(answer: &Answer, until: Instant, now: Instant) -> bool {
    let ended = matches!(answer, Answer::Allow { expires_at: Some(end), .. } if *end <= SystemTime::now());
    now < until && !ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> Fingerprint {
        [byte; 32]
    }

    #[test]
    fn an_answer_is_remembered_for_its_time() {
        let (answers, now, keep) = (Answers::new(10), Instant::now(), Duration::from_secs(5));
        answers.put(id(1), Answer::Deny, now, keep);
        assert_eq!(answers.get(&id(1), now + Duration::from_secs(4)), Some(Answer::Deny));
        assert_eq!(answers.get(&id(1), now + keep), None);
        answers.put(id(2), Answer::Deny, now, Duration::ZERO);
        assert_eq!(answers.get(&id(2), now), None);
    }

    #[test]
    fn what_is_in_use_stays_and_the_number_is_bounded() {
        let (answers, now, keep) = (Answers::new(20), Instant::now(), Duration::from_secs(5));
        answers.put(id(255), Answer::Deny, now, keep);
        for byte in 0..200 {
            answers.put(id(byte), Answer::Ignore, now, keep);
            assert_eq!(answers.get(&id(255), now), Some(Answer::Deny), "after {byte}");
            let halves = answers.halves.lock().expect("a lock");
            assert!(halves.young.len() + halves.old.len() <= 20);
        }
        assert_eq!(answers.get(&id(0), now), None);
    }

    #[test]
    fn an_allowance_that_ended_is_not_remembered() {
        let (answers, now) = (Answers::new(10), Instant::now());
        let allow = Answer::Allow {
            kind: crate::Kind::Device,
            name: None,
            fleet: None,
            expires_at: Some(SystemTime::now()),
        };
        answers.put(id(1), allow, now, Duration::from_secs(60));
        assert_eq!(answers.get(&id(1), now), None);
    }
}
