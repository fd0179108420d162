//! The kinds of entries: their columns, and what these owe each other.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::amount::{Amount, Tiers};
use crate::entry::{Before, Column, Entry, entry, or_empty, or_none};
use crate::fault::{Fault, Wrong};
use crate::number::{Eid, Iccid, Imei, Imsi, Msisdn};
use crate::sim_state::SimState;
use crate::time::{Day, Month, Time, Zone};
use crate::value::{Country, Currency, Device as DeviceName, Id, Line, Link, Note, Value, Whole, choice};

/// Evaluates an expression for the entries of a kind: `for_kind!(kind, R => R::COLUMNS)`.
macro_rules! for_kind {
    ($kind:expr, $entry:ident => $body:expr) => {
        match $kind {
            crate::Kind::Customers => {
                type $entry = crate::kinds::Customer;
                $body
            }
            crate::Kind::Fleets => {
                type $entry = crate::kinds::Fleet;
                $body
            }
            crate::Kind::Plans => {
                type $entry = crate::kinds::Plan;
                $body
            }
            crate::Kind::Sims => {
                type $entry = crate::kinds::Sim;
                $body
            }
            crate::Kind::Devices => {
                type $entry = crate::kinds::Device;
                $body
            }
            crate::Kind::Budgets => {
                type $entry = crate::kinds::Budget;
                $body
            }
            crate::Kind::Shipments => {
                type $entry = crate::kinds::Shipment;
                $body
            }
            crate::Kind::Tickets => {
                type $entry = crate::kinds::Ticket;
                $body
            }
        }
    };
}
pub(crate) use for_kind;

choice! {
    /// A kind of entries. Its word names the view that shows them, the kind on the command line and in the API.
    Kind {
        /// Who pays.
        Customers = "customers",
        /// Devices that belong together.
        Fleets = "fleets",
        /// Conditions of a carrier.
        Plans = "plans",
        /// SIMs.
        Sims = "sims",
        /// Devices.
        Devices = "devices",
        /// What may be spent.
        Budgets = "budgets",
        /// What was sent where.
        Shipments = "shipments",
        /// Complaints and repairs.
        Tickets = "tickets",
    }
}

impl Kind {
    /// Every kind, in an order in which they can be imported: what others refer to comes first.
    pub const ALL: [Self; 8] = [
        Self::Customers,
        Self::Fleets,
        Self::Plans,
        Self::Sims,
        Self::Devices,
        Self::Budgets,
        Self::Shipments,
        Self::Tickets,
    ];

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        for_kind!(self, R => R::COLUMNS)
    }

    /// How many of them are the key.
    pub fn key(self) -> usize {
        for_kind!(self, R => R::KEY)
    }

    /// Those that refer to it, with their column.
    pub(crate) fn referring(self) -> impl Iterator<Item = (Self, &'static str)> {
        Self::ALL.into_iter().flat_map(move |kind| {
            let columns = kind.columns().iter().filter(move |column| column.refers == Some(self));
            columns.map(move |column| (kind, column.name))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Not a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of {}", Kind::WORDS.join(", "))]
pub struct UnknownKind {
    /// What was given.
    given: String,
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::read(text).map_err(|_| UnknownKind { given: text.to_owned() })
    }
}

choice! {
    /// How a plan charges.
    PlanKind {
        /// Each SIM pays for what it used beyond its included megabytes.
        PerMb = "per_mb",
        /// The included megabytes of all SIMs of the plan are one pool; what is used beyond it is paid.
        Pooled = "pooled",
        /// Each SIM pays by tiers of its own volume.
        Tiered = "tiered",
    }
}

entry! {
    /// Who pays, and how it is billed.
    Customer of Customers, key 1, unique [], {}
    {
        /// Its id.
        customer_id: Id,
        /// Its name.
        name: Line,
        /// Where it sits.
        country: Country,
        /// Zone in which its billing months begin.
        billing_time_zone: Zone = "UTC",
        /// Day of the month on which its billing months begin.
        billing_day: Whole<1, 28> = "1",
        /// Currency of its invoices and of the amounts of its fleets and devices.
        currency: Currency = "EUR",
        /// What it pays for a device and month beside the usage.
        fee_per_device: Option<Amount>,
        /// What is added to the cost of its usage, percent.
        markup_percent: Option<Amount>,
        /// Tax on its invoices, percent.
        tax_percent: Option<Amount>,
    }
}

entry! {
    /// Devices that belong together.
    Fleet of Fleets, key 1, unique [], {}
    {
        /// Its id.
        fleet_id: Id,
        /// Whose it is.
        customer_id: Id => Customers,
        /// Its name.
        name: Line,
        /// Where it runs.
        city: Note,
        /// Country in which it runs.
        country: Option<Country>,
        /// Rides of a device and day, for payback and return: what a connected device can earn.
        rides_per_day: Option<Amount>,
        /// What connectivity is worth for a ride (unlocking, tracking, billing), in the customer's currency.
        value_per_ride: Option<Amount>,
        /// What a minute online is worth, in the customer's currency, where rides do not say it.
        value_per_minute: Option<Amount>,
    }
}

entry! {
    /// Conditions of a carrier, for a span of days.
    Plan of Plans, key 2, unique [], {
        fn check(&self) -> Vec<Wrong> {
            let mut wrong = Vec::new();
            if self.valid_to.is_some_and(|end| end <= self.valid_from) {
                wrong.push(Wrong::new("valid_to", Fault::Order { begin: "valid_from" }));
            }
            if (self.kind == PlanKind::Tiered) == self.tiers.is_empty() {
                wrong.push(Wrong::new("tiers", Fault::TiersKind));
            }
            wrong
        }

        fn together(entries: &[&Self]) -> Vec<(usize, Wrong)> {
            let mut spans: BTreeMap<(&str, Day), (usize, &Self)> = BTreeMap::new();
            for (number, plan) in entries.iter().enumerate() {
                spans.insert((plan.plan_id.as_str(), plan.valid_from), (number, plan));
            }
            let next = spans.values().skip(1);
            let meeting = spans.values().zip(next).filter(|((_, one), (_, next))| {
                one.plan_id == next.plan_id && one.valid_to.is_none_or(|end| end > next.valid_from)
            });
            // Told of both: one of them may stand already, and only who hands in the other can act.
            meeting
                .flat_map(|((first, one), (second, next))| {
                    let overlap = |other: &Self| Fault::Overlap { other: other.valid_from.cell() };
                    [(*first, Wrong::new("valid_to", overlap(next))), (*second, Wrong::new("valid_from", overlap(one)))]
                })
                .collect()
        }
    }
    {
        /// Its id.
        plan_id: Id,
        /// First day on which these conditions hold; a plan may have several spans, which do not overlap.
        valid_from: Day = "1970-01-01",
        /// First day on which they do not hold any more; empty: they go on.
        valid_to: Option<Day>,
        /// Its name.
        name: Line,
        /// Whose it is.
        carrier: Line,
        /// How it charges: `per_mb` and `tiered` by SIM, `pooled` over all SIMs of the plan.
        kind: PlanKind,
        /// Currency of its prices.
        currency: Currency = "EUR",
        /// What a SIM costs a month.
        monthly_fee: Amount = "0",
        /// Megabytes a month that a SIM has for that, or puts into the pool.
        included_mb: Amount = "0",
        /// What a megabyte beyond them costs; nothing counts here on a tiered plan.
        price_per_mb: Amount = "0",
        /// Of a tiered plan alone: from so many megabytes of a SIM and month on, one costs so much.
        tiers: Tiers,
        /// Bytes of a megabyte, as this carrier counts: 1000000 or 1048576.
        mb_bytes: Whole<1_000_000, 1_048_576> = "1000000",
    }
}

entry! {
    /// A SIM.
    Sim of Sims, key 1, unique ["imsi"], {
        fn settle(&mut self, before: Before<'_, Self>, now: Time) -> Vec<Wrong> {
            let mut wrong = Vec::new();
            let stands = match before {
                Before::Stands(sim) => Some(sim),
                Before::Never | Before::Deleted => None,
            };
            let state = stands.and_then(|sim| sim.state);
            let next = *self.state.get_or_insert(state.unwrap_or(SimState::Inventory));
            if let Some(from) = state.filter(|state| !state.may_become(next)) {
                wrong.push(Wrong::new("state", Fault::Transition { from: from.word(), allowed: from.next() }));
            }
            let standing = stands.and_then(|sim| sim.state_since);
            let since = begins(&mut self.state_since, state != Some(next), standing, now, now);
            wrong.extend(since.map(|fault| Wrong::new("state_since", fault)));

            let plan = stands.and_then(|sim| sim.plan_id.clone());
            if self.plan_id.is_none() {
                self.plan_id.clone_from(&plan);
            }
            let standing = stands.and_then(|sim| sim.plan_since);
            // What is told first was so before the registry was: else what was used until today would cost nothing.
            let first = if matches!(before, Before::Never) { Time::EVER } else { now };
            let since = if self.plan_id.is_none() {
                self.plan_since.map(|_| Fault::Without { other: "plan_id" })
            } else {
                let first = if plan.is_none() { first } else { now };
                begins(&mut self.plan_since, plan != self.plan_id, standing, first, now)
            };
            wrong.extend(since.map(|fault| Wrong::new("plan_since", fault)));
            wrong
        }
    }
    {
        /// Its number.
        iccid: Iccid,
        /// Number of the subscriber.
        imsi: Option<Imsi>,
        /// Number of the chip of an embedded SIM.
        eid: Option<Eid>,
        /// Telephone number.
        msisdn: Option<Msisdn>,
        /// Whose it is.
        carrier: Note,
        /// Its plan. Empty: as it stands.
        plan_id: Option<Id> => Plans,
        /// Since when it has this plan. Empty on a change: now; on a new SIM: since ever, so that what it has used already has its price.
        plan_since: Option<Time>,
        /// Its state. Empty: as it stands; on a new SIM `inventory`.
        state: Option<SimState>,
        /// Since when. Empty: now.
        state_since: Option<Time>,
    }
}

/// Fills since when it is as it is. What stays as it is keeps its beginning; what changes begins after that, and not in the future.
fn begins(
    since: &mut Option<Time>,
    changes: bool,
    standing: Option<Time>,
    default: Time,
    now: Time,
) -> Option<Fault> {
    match (*since, standing) {
        (None, _) => {
            // What stands without a beginning was begun halfway.
            *since = if changes || standing.is_none() { Some(default) } else { standing };
            None
        }
        (Some(given), Some(standing)) if !changes => {
            (given != standing).then(|| Fault::Since { standing: standing.cell() })
        }
        (Some(given), _) if given > now => Some(Fault::Future),
        // A file that names the new state beside the beginning of the old one, as an edited export does, means now.
        (Some(given), Some(standing)) if given == standing => {
            *since = Some(now);
            None
        }
        (Some(given), Some(standing)) if given < standing => {
            Some(Fault::Backwards { standing: standing.cell() })
        }
        _ => None,
    }
}

entry! {
    /// A device, as it should be.
    Device of Devices, key 1, unique ["imei", "iccid_expected"], {}
    {
        /// The name that it connects with.
        device_id: DeviceName,
        /// Its fleet.
        fleet_id: Id => Fleets,
        /// Name for people.
        name: Note,
        /// Its model.
        model: Note,
        /// Number of its modem.
        imei: Option<Imei>,
        /// Firmware that it should have.
        firmware_expected: Note,
        /// SIM that it should have.
        iccid_expected: Option<Iccid> => Sims,
        /// What its connectivity cost at purchase (modem, antenna, work), in the customer's currency, for payback.
        purchase_cost: Option<Amount>,
        /// From which day on it earns, for payback.
        in_service_since: Option<Day>,
        /// Whatever else.
        note: Note,
    }
}

entry! {
    /// What a customer or a fleet may spend in a month.
    Budget of Budgets, key 3, unique [], {
        fn check(&self) -> Vec<Wrong> {
            if self.customer_id.is_some() == self.fleet_id.is_some() {
                vec![Wrong::new("customer_id", Fault::OneOf { other: "fleet_id" })]
            } else {
                Vec::new()
            }
        }
    }
    {
        /// Whose; empty where it is a fleet's.
        customer_id: Option<Id> => Customers,
        /// Whose; empty where it is a customer's.
        fleet_id: Option<Id> => Fleets,
        /// The month.
        month: Month,
        /// How much.
        amount: Amount,
        /// Of which currency.
        currency: Currency = "EUR",
    }
}

entry! {
    /// A device that was sent somewhere. A shipment has a row for each of its devices.
    Shipment of Shipments, key 2, unique [], {}
    {
        /// Id of the shipment.
        shipment_id: Id,
        /// A device of it.
        device_id: DeviceName => Devices,
        /// When it left.
        shipped_at: Time,
        /// Where to.
        destination: Note,
    }
}

entry! {
    /// A complaint or a repair.
    Ticket of Tickets, key 1, unique [], {
        fn check(&self) -> Vec<Wrong> {
            if self.closed_at.is_some_and(|end| end < self.opened_at) {
                vec![Wrong::new("closed_at", Fault::Order { begin: "opened_at" })]
            } else {
                Vec::new()
            }
        }
    }
    {
        /// Its id.
        ticket_id: Id,
        /// The device.
        device_id: DeviceName => Devices,
        /// When it was opened.
        opened_at: Time,
        /// When it was closed; empty: it is open.
        closed_at: Option<Time>,
        /// What it is about, in a word.
        category: Note,
        /// Where it can be read.
        link: Option<Link>,
        /// What it is about, in a line.
        title: Note,
    }
}
