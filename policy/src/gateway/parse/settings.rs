//! Settings of the daemon itself: `[control]`, `[kernel]`, `[containers]`, `[reload]`.

use crate::Problem;
use crate::gateway::model::{Control, InterfacePattern, Kernel};
use crate::reader::{Table, Value};
use crate::sections::ControlKeys;

/// `[control]` with its defaults.
pub(super) fn control(keys: ControlKeys) -> Control {
    Control {
        socket: keys.socket.unwrap_or_else(|| "/run/causeway/gateway.sock".into()),
        group: keys.group.unwrap_or_else(|| "causeway".to_owned()),
    }
}

/// `[kernel]`.
pub(super) fn kernel(root: &Table<'_>) -> Kernel {
    let table = root.table("kernel", "[kernel]");
    let number = |key, range: std::ops::RangeInclusive<u64>, default: u32| {
        let value = table.as_ref().and_then(|table| table.optional(key));
        value
            .and_then(|value| value.integer(range))
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(default)
    };
    let default = Kernel::default();
    let kernel = Kernel {
        fwmark: number("fwmark", 1..=0xffff_ffef, default.fwmark),
        ct_mark: number("ct_mark", 0x1_0000..=0xffff_0000, default.ct_mark),
        route_table: number("route_table", 1..=0xffff_ffef, default.route_table),
        rule_priority: number("rule_priority", 1..=32_763, default.rule_priority),
        route_protocol: u8::try_from(number("route_protocol", 5..=254, default.route_protocol.into()))
            .unwrap_or(default.route_protocol),
    };
    if let Some(table) = &table {
        if kernel.ct_mark & 0xffff != 0 {
            let with = "the numbers of services, which take its lower 16 bits";
            table.report(Problem::KernelNumberClash { key: "ct_mark", with });
        }
        if (237..=255).contains(&kernel.route_table) {
            let with = "a table of the system (253 default, 254 main, 255 local)";
            table.report(Problem::KernelNumberClash { key: "route_table", with });
        }
    }
    table.iter().for_each(Table::close);
    kernel
}

/// `[containers]`.
pub(super) fn containers(root: &Table<'_>) -> Vec<InterfacePattern> {
    let table = root.table("containers", "[containers]");
    let value = table.as_ref().and_then(|table| table.optional("interfaces"));
    let expected = "an interface name, which may end in `*`";
    let patterns = match value {
        Some(value) => {
            let items = value.items("an array of interface names").into_iter();
            items.filter_map(|item| item.parse(expected, InterfacePattern::new)).collect()
        }
        None => ["docker0", "br-*", "podman*"].into_iter().filter_map(InterfacePattern::new).collect(),
    };
    table.iter().for_each(Table::close);
    patterns
}

/// `[reload]`.
pub(super) fn watch(root: &Table<'_>) -> bool {
    let Some(table) = root.table("reload", "[reload]") else { return false };
    let watch = table.optional("watch").and_then(Value::boolean).unwrap_or(false);
    table.close();
    watch
}
