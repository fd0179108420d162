//! The fields of the JSON heartbeat: each one's name in the payload, its place in the event, and what it may be.

use event::v1::{Battery, Heartbeat, Position, Radio, Sim, Usage};

use crate::object::{group, object};
use crate::rule::{any_real, digits, filled_digits, flag, real, text, time, whole};

// `extra` stands in no list: it is what lies beyond them, see `beyond`.
object!(Heartbeat {
    "ts"         => claimed_time_ms: time(),
    "seq"        => sequence:        whole::<u64>(),
    "boot_id"    => boot_id:         text(),
    "uptime_s"   => uptime_s:        whole::<u64>(),
    "firmware"   => firmware:        text(),
    "state"      => state:           text(),
    "next_s"     => next_s:          whole::<u32>(),
    "battery"    => battery:         group::<Battery>(),
    "position"   => position:        group::<Position>(),
    "radio"      => radio:           group::<Radio>(),
    "sim"        => sim:             group::<Sim>(),
    "usage"      => usage:           group::<Usage>(),
});

object!(Battery {
    "percent"    => percent:         real::<f32>(0.0, 100.0),
    "millivolts" => millivolts:      whole::<u32>(),
    "charging"   => charging:        flag(),
});

object!(Position {
    "lat"        => latitude_deg:    real::<f64>(-90.0, 90.0),
    "lon"        => longitude_deg:   real::<f64>(-180.0, 180.0),
    "alt_m"      => altitude_m:      any_real::<f32>(),
    "speed_mps"  => speed_mps:       any_real::<f32>(),
    "accuracy_m" => accuracy_m:      any_real::<f32>(),
});

object!(Radio {
    "rat"        => rat:             text(),
    "plmn"       => plmn:            digits(5, 6),
    "cell_id"    => cell_id:         whole::<u64>(),
    "tac"        => tac:             whole::<u32>(),
    "rssi_dbm"   => rssi_dbm:        any_real::<f32>(),
    "rsrp_dbm"   => rsrp_dbm:        any_real::<f32>(),
    "rsrq_db"    => rsrq_db:         any_real::<f32>(),
    "sinr_db"    => sinr_db:         any_real::<f32>(),
});

// An ICCID has mostly 19 or 20 digits. No check digits: an operator looking for a badly typed SIM wants to see it as the device reports it.
object!(Sim {
    "iccid"      => iccid:           filled_digits(18, 22),
    "imsi"       => imsi:            digits(6, 15),
    "imei"       => imei:            digits(14, 16),
});

object!(Usage {
    "tx_bytes"   => tx_bytes:        whole::<u64>(),
    "rx_bytes"   => rx_bytes:        whole::<u64>(),
});
