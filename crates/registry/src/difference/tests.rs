//! What a file would change, and what is wrong with it.

use proptest::prelude::*;

use super::*;
use crate::kinds::{Budget, Device, Plan, Sim, for_kind};
use crate::number::luhn;
use crate::read::{self, Format};
use crate::value::Value;

const NOW: &str = "2026-06-01T12:00:00Z";

fn time(text: &str) -> Time {
    Time::read(text).expect("a time")
}

fn iccid(number: u32) -> String {
    let body = format!("8949100000{number:08}");
    format!("{body}{}", luhn(&body))
}

fn imei(number: u32) -> String {
    let body = format!("{number:014}");
    format!("{body}{}", luhn(&body))
}

fn standing<R: Entry>(rows: &[&str], known: &[(Kind, &str)]) -> Standing {
    let mut standing = Standing::default();
    for row in rows {
        let mut cells: Vec<String> = row.split('|').map(str::to_owned).collect();
        cells.resize(R::COLUMNS.len(), String::new());
        standing.rows.insert(id_of::<R>(&cells), cells);
    }
    for (kind, id) in known {
        standing.known.entry(*kind).or_default().insert((*id).to_owned());
    }
    standing
}

fn compared<R: Entry>(text: &str, standing: &Standing) -> Result<Difference, Vec<String>> {
    let (drafts, problems) = read::drafts(R::KIND, text.as_bytes(), Format::of(text.as_bytes()));
    assert_eq!(problems, []);
    compare::<R>(drafts, standing, time(NOW))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn is_wrong<R: Entry>(text: &str, standing: &Standing, told: &[&str]) {
    assert_eq!(compared::<R>(text, standing).expect_err("problems"), told);
}

/// What changes of the one row of a file.
fn change<R: Entry>(text: &str, standing: &Standing) -> Vec<(&'static str, String)> {
    let difference = compared::<R>(text, standing).expect("no problem");
    let what = difference.changes.into_iter().flat_map(|change| change.what);
    what.map(|(name, _, after)| (name, after)).collect()
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_line_and_column() {
    let standing = standing::<Device>(&["old|berlin|||490154203237518"], &[(Kind::Fleets, "berlin")]);
    let wrong = "device_id,fleet_id,imei,purchase_cost\n\
                 a,berlin,490154203237518,1\n\
                 b,paris,,\n\
                 c,berlin,490154203237517,-1\n\
                 ,berlin,,\n\
                 d,berlin,,\n\
                 d,berlin,,";
    is_wrong::<Device>(
        wrong,
        &standing,
        &[
            "2: imei: \"490154203237518\" stands at old, too",
            "3: fleet_id: \"paris\" is not among the fleets of the registry: import them first",
            "4: imei: \"490154203237517\" has the check digit 7, and should have 8: a digit is wrong",
            "4: purchase_cost: \"-1\" is not an amount such as 12 or 12.345678, from 0 and below 1000000000000, with a point and at \
             most six decimals",
            "5: device_id: is empty, and has to be there",
            "7: device_id: \"d\" the same device_id stands in line 6, too",
        ],
    );
    is_wrong::<Device>(
        "device_id,imei\nnew,1",
        &standing,
        &["2: fleet_id: this column is missing", "2: imei: \"1\" is not 15 digits"],
    );
}

#[test]
fn what_a_file_does_not_name_stays_and_what_it_empties_is_empty() {
    let standing = standing::<Device>(&["a|berlin|Ada|X1"], &[(Kind::Fleets, "berlin")]);
    assert_eq!(change::<Device>("device_id,name\na,Ada", &standing), []);
    assert_eq!(change::<Device>("device_id,name\na,", &standing), [("name", String::new())]);
    assert_eq!(
        change::<Device>("{\"device_id\":\"a\",\"model\":\"X2\"}", &standing),
        [("model", "X2".to_owned())]
    );
}

#[test]
fn two_devices_may_swap_their_modems_and_not_share_one() {
    let (one, two) = (imei(1), imei(2));
    let rows = [format!("a|f|||{one}"), format!("b|f|||{two}")];
    let standing = standing::<Device>(&rows.each_ref().map(String::as_str), &[(Kind::Fleets, "f")]);
    let swapped =
        compared::<Device>(&format!("device_id,imei\na,{two}\nb,{one}"), &standing).expect("no problem");
    assert_eq!(swapped.changes.len(), 2);
    is_wrong::<Device>(
        &format!("device_id,imei\na,{two}"),
        &standing,
        &[&format!("2: imei: \"{two}\" stands at b, too")],
    );
}

#[test]
fn a_sim_begins_in_the_inventory_and_goes_where_it_may() {
    let sim = iccid(1);
    let known = [(Kind::Plans, "p"), (Kind::Plans, "q")];
    let first = change::<Sim>(&format!("iccid,plan_id\n{sim},p"), &standing::<Sim>(&[], &known));
    let named = |name: &str| first.iter().find(|(column, _)| *column == name).map(|(_, cell)| cell.as_str());
    assert_eq!((named("state"), named("state_since")), (Some("inventory"), Some(NOW)));
    assert_eq!((named("plan_id"), named("plan_since")), (Some("p"), Some("1970-01-01T00:00:00Z")));

    is_wrong::<Sim>(
        &format!("iccid,plan_since\n{sim},2026-01-01T00:00:00Z"),
        &standing::<Sim>(&[], &known),
        &["2: plan_since: \"2026-01-01T00:00:00Z\" means nothing without plan_id"],
    );
    let live = format!("{sim}|||||p|1970-01-01T00:00:00Z|live|2026-01-01T00:00:00Z");
    let stands = standing::<Sim>(&[&live], &known);
    let file = |columns: &str, cells: &str| format!("iccid,{columns}\n{sim},{cells}");
    assert_eq!(change::<Sim>(&file("state", "live"), &stands), []);
    assert_eq!(change::<Sim>(&file("state,state_since", ","), &stands), [], "empty is as it stands");
    assert_eq!(
        change::<Sim>(&file("state", "paused"), &stands),
        [("state", "paused".to_owned()), ("state_since", NOW.to_owned())]
    );
    let may = change::<Sim>(&file("state,state_since", "paused,2026-05-01T00:00:00Z"), &stands);
    assert_eq!(may[1].1, "2026-05-01T00:00:00Z");
    // An export in which somebody changed the state alone.
    let edited = change::<Sim>(&file("state,state_since", "paused,2026-01-01T00:00:00Z"), &stands);
    assert_eq!(edited[1].1, NOW);
    assert_eq!(
        change::<Sim>(&file("plan_id", "q"), &stands),
        [("plan_id", "q".to_owned()), ("plan_since", NOW.to_owned())]
    );
    for (columns, cells, told) in [
        (
            "state",
            "testing",
            "2: state: \"testing\" cannot follow live: after it may come inventory, paused, retired",
        ),
        (
            "state,state_since",
            "paused,2025-12-31T00:00:00Z",
            "2: state_since: \"2025-12-31T00:00:00Z\" is not after 2026-01-01T00:00:00Z, since when the one before holds",
        ),
        (
            "state,state_since",
            "paused,2026-06-02T00:00:00Z",
            "2: state_since: \"2026-06-02T00:00:00Z\" is in the future",
        ),
        (
            "state_since",
            "2026-02-01T00:00:00Z",
            "2: state_since: \"2026-02-01T00:00:00Z\" differs from 2026-01-01T00:00:00Z, and nothing else changes: leave it \
             empty, history stays as it is",
        ),
    ] {
        is_wrong::<Sim>(&file(columns, cells), &stands, &[told]);
    }
}

#[test]
fn a_sim_that_was_deleted_comes_back_from_now_on() {
    let sim = iccid(1);
    let mut standing = standing::<Sim>(&[], &[(Kind::Plans, "p")]);
    standing.deleted.insert(sim.clone());
    let back = change::<Sim>(&format!("iccid,plan_id\n{sim},p"), &standing);
    assert!(back.contains(&("plan_since", NOW.to_owned())), "what its history says before stays: {back:?}");
}

#[test]
fn spans_of_a_plan_do_not_meet_and_a_tiered_plan_has_tiers() {
    let stands = standing::<Plan>(&["p|2026-01-01||P|T|per_mb|EUR|1|0|0.1||1000000"], &[]);
    let header = "plan_id,valid_from,valid_to,name,carrier,kind,tiers";
    is_wrong::<Plan>(
        &format!("{header}\np,2026-07-01,,P,T,per_mb,"),
        &stands,
        &["2: valid_from: \"2026-07-01\" overlaps the span of the same plan from 2026-01-01"],
    );
    let both = format!("{header}\np,2026-01-01,2026-07-01,P,T,per_mb,\np,2026-07-01,,P,T,tiered,0:1");
    assert_eq!(compared::<Plan>(&both, &stands).expect("no problem").changes.len(), 2);
    is_wrong::<Plan>(
        &format!("{header}\nq,2026-07-01,2026-07-01,Q,T,pooled,0:1"),
        &stands,
        &[
            "2: valid_to: \"2026-07-01\" is not after valid_from",
            "2: tiers: \"0:1\" have to stand on a plan of the kind `tiered`, and on no other",
        ],
    );
}

#[test]
fn a_budget_is_of_a_customer_or_of_a_fleet() {
    let stands = standing::<Budget>(&[], &[(Kind::Customers, "c"), (Kind::Fleets, "f")]);
    let header = "customer_id,fleet_id,month,amount";
    for cells in ["c,f", ","] {
        let told =
            compared::<Budget>(&format!("{header}\n{cells},2026-01,5"), &stands).expect_err("a problem");
        assert!(told[0].ends_with("either this or fleet_id has to be there, and not both"), "{told:?}");
    }
    let fine =
        compared::<Budget>(&format!("{header}\nc,,2026-01,5\n,f,2026-01,5"), &stands).expect("no problem");
    assert_eq!(
        fine.changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(),
        ["c,,2026-01", ",f,2026-01"]
    );
}

#[test]
fn every_kind_refers_only_to_kinds_that_are_imported_before() {
    for (number, kind) in Kind::ALL.iter().enumerate() {
        for column in kind.columns() {
            let known = |refers: &Kind| Kind::ALL[..number].contains(refers);
            assert!(column.refers.as_ref().is_none_or(known), "{kind}: {}", column.name);
            assert!(!column.doc.trim().is_empty(), "{kind}: {}", column.name);
        }
        assert!(for_kind!(kind, R => R::KIND) == *kind && kind.key() <= kind.columns().len());
    }
}

proptest! {
    /// Whatever is imported over whatever stands: the same import again changes nothing.
    #[test]
    fn an_import_twice_is_an_import_once(
        stands in proptest::collection::btree_map(0_u32..12, 0_usize..5, 0..8),
        file in proptest::collection::btree_map(0_u32..12, (0_usize..6, proptest::bool::ANY), 1..8),
    ) {
        let states = ["inventory", "testing", "live", "paused", "retired"];
        let rows: Vec<String> = stands
            .iter()
            .map(|(number, state)| format!("{}|||||||{}|2026-01-01T00:00:00Z", iccid(*number), states[*state]))
            .collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let mut standing = standing::<Sim>(&rows, &[(Kind::Plans, "p")]);
        let mut text = "iccid,state,plan_id\n".to_owned();
        for (number, (state, planned)) in &file {
            let state = states.get(*state).copied().unwrap_or_default();
            text += &format!("{},{state},{}\n", iccid(*number), if *planned { "p" } else { "" });
        }
        let Ok(first) = compared::<Sim>(&text, &standing) else {
            return Ok(());
        };
        prop_assert_eq!(first.changes.len() + first.unchanged, file.len());
        for change in first.changes {
            standing.rows.insert(change.id, change.cells);
        }
        let again = compared::<Sim>(&text, &standing).expect("it was right before");
        prop_assert_eq!(again.changes, vec![]);
        prop_assert_eq!(again.unchanged, file.len());
    }
}
