//! What is left of a life as a member of the group.

use bus::{Assigned, Lane as Id, Offset, Partition, Start, Stream};
use ops::Health;
use store::Store;
use tokio::runtime::Handle;

use super::Lanes;
use crate::Config;
use crate::insert::Inserter;
use crate::settle::Turn;

#[tokio::test]
async fn however_a_life_ends_its_inserts_end_with_it_and_its_turn_to_settle() {
    let store = Store::new(&store::Config::default()).expect("a client");
    let inserter = Inserter::new(store, 1, Health::default().condition("rows_land"));
    let turn = Turn::default();
    let mut lanes = Lanes::new(&Config::default(), inserter, turn.clone(), Handle::current());
    let id = Id { stream: Stream::Events, partition: Partition(0) };
    let start = Start::Committed(Offset(0), String::new());
    lanes.assigned(&[Assigned { lane: id, start }]).expect("no note");
    let insert = tokio::spawn(std::future::pending::<()>());
    lanes.lanes.get_mut(&id).expect("ours").insert = Some(insert.abort_handle());
    assert!(turn.is_ours());
    drop(lanes);
    assert!(insert.await.expect_err("it never ends by itself").is_cancelled());
    assert!(!turn.is_ours(), "somebody else settles");
}
