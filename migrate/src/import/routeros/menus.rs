//! The menus that are read, and what a command of them may hold.

/// Menus of rules, whose properties are judged rule by rule.
const RULES: [&str; 9] = [
    "ip firewall filter",
    "ip firewall mangle",
    "ip firewall nat",
    "ip firewall raw",
    "ipv6 firewall filter",
    "ipv6 firewall mangle",
    "ipv6 firewall nat",
    "ipv6 firewall raw",
    "interface bridge filter",
];

/// Menus of which one `set` holds everything.
const SETTINGS: [&str; 4] =
    ["ip settings", "ipv6 settings", "ip firewall connection tracking", "interface detect-internet"];

/// The other menus that are read, with the properties that are understood, or that change nothing
/// of what is carried.
const MENUS: [(&str, &[&str]); 16] = [
    ("interface list", &["include", "exclude", "name"]),
    ("interface list member", &["interface", "list"]),
    ("interface wireguard", &["listen-port", "mtu", "name", "private-key"]),
    (
        "interface wireguard peers",
        &[
            "allowed-address",
            "client-address",
            "client-allowed-address",
            "client-dns",
            "client-endpoint",
            "client-keepalive",
            "client-listen-port",
            "endpoint-address",
            "endpoint-port",
            "interface",
            "is-responder",
            "name",
            "persistent-keepalive",
            "preshared-key",
            "private-key",
            "public-key",
            "responder",
        ],
    ),
    ("ip address", &["address", "interface", "network"]),
    ("ipv6 address", &["address", "advertise", "eui-64", "from-pool", "interface", "network", "no-dad"]),
    ("ip dhcp-client", &CLIENT),
    ("ip firewall address-list", &["address", "list", "timeout"]),
    ("ipv6 firewall address-list", &["address", "list", "timeout"]),
    ("ip route", &ROUTE),
    ("ipv6 route", &ROUTE),
    (
        "routing rule",
        &["action", "dst-address", "interface", "min-prefix", "routing-mark", "src-address", "table"],
    ),
    ("routing table", &["fib", "name"]),
    ("ip vrf", &["interfaces", "name"]),
    ("interface vrrp", &VRRP),
    ("interface macvlan", &["arp", "interface", "mac-address", "mode", "mtu", "name"]),
];

const CLIENT: [&str; 10] = [
    "add-default-route",
    "allow-reconfigure",
    "default-route-distance",
    "default-route-tables",
    "dhcp-options",
    "interface",
    "name",
    "script",
    "use-peer-dns",
    "use-peer-ntp",
];

const ROUTE: [&str; 14] = [
    "blackhole",
    "check-gateway",
    "distance",
    "dst-address",
    "gateway",
    "pref-src",
    "routing-mark",
    "routing-table",
    "scope",
    "suppress-hw-offload",
    "target-scope",
    "type",
    "vrf-interface",
    "bgp-communities",
];

const VRRP: [&str; 22] = [
    "arp",
    "arp-timeout",
    "authentication",
    "connection-tracking-mode",
    "connection-tracking-port",
    "group-authority",
    "group-master",
    "interface",
    "interval",
    "mtu",
    "name",
    "on-backup",
    "on-fail",
    "on-master",
    "password",
    "preemption-mode",
    "priority",
    "remote-address",
    "sync-connection-tracking",
    "v3-protocol",
    "version",
    "vrid",
];

/// Lists of interfaces that every router has, of which an export writes a `set`.
const BUILT_IN_LISTS: [&str; 4] = ["all", "none", "dynamic", "static"];

/// Whether a menu is read.
pub(in crate::import) fn is_read(menu: &str) -> bool {
    RULES.contains(&menu) || SETTINGS.contains(&menu) || MENUS.iter().any(|(known, _)| *known == menu)
}

/// Whether a property of a menu that is read has no meaning here.
pub(in crate::import) fn is_unknown(menu: &str, key: &str) -> bool {
    let known = MENUS.iter().find(|(known, _)| *known == menu);
    known.is_some_and(|(_, keys)| !keys.contains(&key) && !["comment", "disabled"].contains(&key))
}

/// Whether a path is no menu: a menu that is read with words behind it that are not understood, or
/// the beginnings of its words.
pub(super) fn is_no_menu(path: &str) -> bool {
    if is_read(path) || path.is_empty() {
        return false;
    }
    let script = path.starts_with("import") || path.starts_with("system script run");
    let read = || RULES.iter().chain(&SETTINGS).copied().chain(MENUS.iter().map(|(menu, _)| *menu));
    script || read().any(|menu| goes_on(path, menu) || abbreviates(path, menu))
}

/// Menus below one that is read, which are menus of their own.
const BELOW: [&str; 4] = ["ip route rule", "ip route vrf", "ip route nexthop", "ip dhcp-client option"];

fn goes_on(path: &str, menu: &str) -> bool {
    let rest = path.strip_prefix(menu);
    rest.is_some_and(|rest| rest.starts_with(' ')) && !BELOW.contains(&path)
}

fn abbreviates(path: &str, menu: &str) -> bool {
    let (written, whole) = (path.split(' '), menu.split(' '));
    written.clone().count() == whole.clone().count()
        && written.zip(whole).all(|(written, whole)| whole.starts_with(written))
}

/// Whether a command changes or orders what others made, which an export never does.
pub(in crate::import) fn is_of_a_script(menu: &str, command: &str, target: &str) -> bool {
    match command {
        "add" => false,
        "set" if menu == "interface list" => {
            let name = target.strip_prefix("find name=").unwrap_or(target).trim_matches('"');
            !BUILT_IN_LISTS.contains(&name)
        }
        "set" => menu == "interface" || is_read(menu) && !SETTINGS.contains(&menu),
        _ => menu.starts_with("interface") || is_read(menu),
    }
}

/// Whether the text of a line that is no command may change what is read.
pub(super) fn may_change(text: &str) -> bool {
    let text = text.to_ascii_lowercase().replace('/', " ");
    let words =
        ["firewall", "interface ", "{", "}", "do=", "import", "ip ", "ipv6 ", "routing ", "script run"];
    words.iter().any(|word| text.contains(word))
}
