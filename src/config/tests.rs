use std::path::{Path, PathBuf};

use super::*;

fn read(table: &'static Table, text: &str) -> Result<Document, Error> {
    Document::from_text(table, Path::new("/etc/x.conf"), text)
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[test]
fn values_are_read_as_libvirt_reads_them() {
    let list = |items: Vec<Value>| Value::List(items);
    let cases = [
        ("a = 5", Value::Number(5)),
        ("a=+5", Value::Number(5)),
        ("a = -1", Value::Number(-1)),
        ("a = 007", Value::Number(7)),
        ("\t a = 5 # five", Value::Number(5)),
        ("a = \"x\"", text("x")),
        ("a = 'x \"y\" z'", text("x \"y\" z")),
        (r#"a = "C:\new""#, text(r"C:\new")),
        ("a = \"\"", text("")),
        ("a = \"\"\"one\ntwo\"\"\"", text("one\ntwo")),
        ("a = []", list(vec![])),
        ("a = [ \"x\", 'y' ]", list(vec![text("x"), text("y")])),
        (
            "a = [\n  \"x\", # first\n\n  \"y\",\n]",
            list(vec![text("x"), text("y")]),
        ),
        (
            "a = [[1], 2]",
            list(vec![list(vec![Value::Number(1)]), Value::Number(2)]),
        ),
        ("a = 5\r\n", Value::Number(5)),
        ("a = 1; b = 2", Value::Number(1)),
    ];
    for (source, expected) in cases {
        let entries = parse(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(entries[0].value, expected, "{source}");
    }
}

#[test]
fn settings_know_their_lines() {
    let source = "# head\n\na = 1\nb = [\n 2,\n 3 ]\nc = \"\"\"x\ny\"\"\"\nd = 4; e = 5\n";
    let lines: Vec<_> = parse(source)
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.line))
        .collect();
    let expected = [("a", 3), ("b", 4), ("c", 7), ("d", 9), ("e", 9)];
    assert_eq!(lines, expected.map(|(name, line)| (name.to_owned(), line)));
}

#[test]
fn what_libvirt_refuses_is_refused_with_its_line() {
    let cases = [
        ("a = abc", 1),
        ("a 5", 1),
        ("\na = 0x10", 2),
        ("a = 5 6", 1),
        ("a = 99999999999999999999", 1),
        ("a-b = 5", 1),
        ("a = \"x\nb = 1", 1),
        ("a = \"x\\\"y\"", 1),
        ("a = [ \"x\" \"y\" ]", 1),
        ("a = [ \"x\",\n\n", 3),
        ("a = \"\"\"x", 1),
        ("a =", 1),
        ("a = -", 1),
        ("\n;\n", 2),
        ("1 = 2", 1),
        ("a = [[[[[[[[[[1]]]]]]]]]]", 1),
    ];
    for (source, line) in cases {
        let error = parse(source)
            .err()
            .unwrap_or_else(|| panic!("{source:?} was accepted"));
        assert_eq!(error.line, line, "{source:?}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics_the_reader(source in "[a\\[\\]\"'=,;#\n 0-9é-]{0,40}") {
        let _ = parse(&source);
    }
}

#[test]
fn every_default_is_a_value_of_its_key() {
    for table in [&DAEMON, &QEMU] {
        for key in table.keys() {
            let shown = render::render(table);
            let line = format!("#{} = ", key.name);
            let at = shown
                .find(&line)
                .unwrap_or_else(|| panic!("{} is not shown", key.name));
            let setting = shown[at + 1..].lines().next().unwrap();
            let document = read(table, setting).unwrap_or_else(|error| panic!("{error}"));
            assert!(document.sets(key.name), "{setting}");
        }
    }
}

#[test]
fn keys_are_unique() {
    for table in [&DAEMON, &QEMU] {
        let mut names: Vec<_> = table.keys().map(|key| key.name).collect();
        names.extend(table.foreign.iter().map(|(name, _)| name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{}", table.file);
    }
}

#[test]
fn empty_files_give_the_defaults() {
    let daemon = DaemonConfig::from_document(&read(&DAEMON, "").unwrap()).unwrap();
    assert_eq!((daemon.limits.clients, daemon.limits.client_requests), (5000, 5));
    assert_eq!(daemon.sockets.rw_mode, 0o700);
    assert_eq!(daemon.keepalive.interval, Some(std::time::Duration::from_secs(5)));
    let qemu = QemuConfig::from_document(&read(&QEMU, "").unwrap(), None).unwrap();
    assert_eq!(qemu.identity.user, "libvirt-qemu");
    assert_eq!(
        qemu.display_ports,
        PortRange {
            min: 5900,
            max: 65_535
        }
    );
    assert_eq!(qemu.limits.core, CoreLimit::Unlimited);
    assert!(qemu.guard.mount_namespace && qemu.guard.clear_capabilities);
    assert_eq!(qemu.guard.seccomp_sandbox, None);
}

#[test]
fn settings_arrive_in_the_typed_values() {
    let text = "user = '+0'\nmax_core = 4096\nsecurity_driver = \"none\"\nhugetlbfs_mount = \"/dev/hp\"\n\
                seccomp_sandbox = 0\nnvram = [ \"/c:/v\" ]\nauto_shutdown_try_shutdown = \"all\"\n\
                default_tls_x509_verify = 1\nnamespaces = []\nmax_files = 1024\n";
    let qemu = QemuConfig::from_document(&read(&QEMU, text).unwrap(), None).unwrap();
    assert_eq!(qemu.identity.user, "+0");
    assert_eq!(qemu.limits.core, CoreLimit::Bytes(4096));
    assert_eq!(qemu.limits.files, Some(1024));
    assert_eq!(qemu.paths.hugetlbfs, Some(vec![PathBuf::from("/dev/hp")]));
    assert_eq!(qemu.guard.seccomp_sandbox, Some(false));
    assert!(!qemu.guard.mount_namespace);
    assert_eq!(qemu.nvram, Some(vec![(PathBuf::from("/c"), PathBuf::from("/v"))]));
    assert_eq!(qemu.auto.try_shutdown, Some(AutoShutdown::All));
    assert!(qemu.vnc.tls.verify);
}

#[test]
fn what_is_encrypted_is_said_for_each_kind_or_for_all() {
    let of = |text: &str| QemuConfig::from_document(&read(&QEMU, text).unwrap(), None).unwrap();
    let uuid = |text: &str| Some(text.parse::<uuid::Uuid>().unwrap());
    let (one, other) = (
        "2d7891af-20be-4e5e-af83-190e8a922360",
        "3d7891af-20be-4e5e-af83-190e8a922360",
    );
    let plain = of("");
    assert!(!plain.chardev_tls.on && plain.chardev_tls.verify && !plain.vnc.tls.verify);
    let all = of(&format!(
        "default_tls_x509_verify = 0\ndefault_tls_x509_secret_uuid = \"{one}\"\nchardev_tls = 1\n\
         vnc_tls_x509_verify = 1\nnbd_tls_x509_secret_uuid = \"{other}\"\n"
    ));
    assert!(all.chardev_tls.on && !all.chardev_tls.verify && all.vnc.tls.verify);
    assert_eq!(
        (all.chardev_tls.secret, all.nbd_tls.secret),
        (uuid(one), uuid(other))
    );
    assert_eq!(all.spice.tls.secret, None, "QEMU takes none");
}

// table
#[test]
fn wrong_values_name_file_line_key_and_what_is_allowed() {
    let daemon = [
        (
            "max_clients = \"5\"",
            "/etc/x.conf:1: max_clients: expected a whole number from 1 to 1000000",
        ),
        (
            "\nmax_clients = -1",
            "/etc/x.conf:2: max_clients: expected a whole number from 1 to 1000000",
        ),
        (
            "log_level = 9",
            "/etc/x.conf:1: log_level: expected a whole number from 0 to 4",
        ),
        (
            "unix_sock_rw_perms = \"0999\"",
            "/etc/x.conf:1: unix_sock_rw_perms: expected an octal file mode in quotes, such as \"0770\"",
        ),
        (
            "auth_unix_rw = \"bogus\"",
            "/etc/x.conf:1: auth_unix_rw: expected one of \"none\", \"polkit\", \"sasl\"",
        ),
        (
            "auth_unix_rw = \"polkit\"",
            "/etc/x.conf: auth_unix_rw: \"polkit\" is not supported yet; set \"none\" and let the sockets' mode and group decide",
        ),
        (
            "host_uuid = \"00000000-0000-0000-0000-000000000000\"",
            "/etc/x.conf:1: host_uuid: expected a UUID in quotes, its digits not all equal",
        ),
        (
            "max_clients = 5",
            "/etc/x.conf: max_clients: it is 5, less than max_anonymous_clients, which is 20",
        ),
        (
            "access_drivers = \"polkit\"",
            "/etc/x.conf:1: access_drivers: expected a list in brackets of \"polkit\", \"none\"",
        ),
        ("x", "/etc/x.conf:1: expected '=' after the key"),
    ];
    for (source, message) in daemon {
        let result = read(&DAEMON, source).and_then(|document| DaemonConfig::from_document(&document));
        assert_eq!(
            result.err().map(|e| e.to_string()).as_deref(),
            Some(message),
            "{source}"
        );
    }
    let qemu = [
        (
            "dynamic_ownership = 2",
            "/etc/x.conf:1: dynamic_ownership: expected 0 or 1",
        ),
        (
            "max_core = \"much\"",
            "/etc/x.conf:1: max_core: expected a whole number from 0 to 9223372036854775807, or \"unlimited\"",
        ),
        (
            "lock_manager = \"sanlock\"",
            "/etc/x.conf: lock_manager: \"sanlock\" is not supported; set \"lockd\", or \"nop\": disks have no leases then",
        ),
        (
            "lock_manager = \"mine\"",
            "/etc/x.conf:1: lock_manager: expected one of \"lockd\", \"sanlock\", \"nop\"",
        ),
        (
            "security_driver = [ \"selinux\" ]",
            "/etc/x.conf: security_driver: \"selinux\" is not supported yet; set \"none\": owner and mode protect guests then",
        ),
        (
            "remote_display_port_min = 6000; remote_display_port_max = 5950",
            "/etc/x.conf: remote_display_port_min: it is 6000, more than remote_display_port_max, which is 5950",
        ),
        (
            "auto_shutdown_try_save = \"all\"",
            "/etc/x.conf:1: auto_shutdown_try_save: expected one of \"none\", \"persistent\"",
        ),
        (
            "sched_core = \"full\"",
            "/etc/x.conf: sched_core: \"full\" is not supported yet; set \"emulator\": helpers of a guest share cores then",
        ),
        (
            "sched_core = \"some\"",
            "/etc/x.conf:1: sched_core: expected one of \"none\", \"vcpus\", \"emulator\", \"full\"",
        ),
        (
            "nvram = [ \"/only\" ]",
            "/etc/x.conf: nvram: \"/only\" is not FIRMWARE:VARIABLES",
        ),
    ];
    for (source, message) in qemu {
        let result = read(&QEMU, source).and_then(|document| QemuConfig::from_document(&document, None));
        assert_eq!(
            result.err().map(|e| e.to_string()).as_deref(),
            Some(message),
            "{source}"
        );
    }
}

#[test]
fn cores_of_a_guests_own_are_refused_where_the_kernel_has_none() {
    let of = |text: &str| QemuConfig::from_document(&read(&QEMU, text).unwrap(), None).map(|c| c.sched_core);
    assert_eq!(of("sched_core = \"none\"").unwrap(), SchedCore::None);
    for (text, wanted) in [
        ("sched_core = \"vcpus\"", SchedCore::Vcpus),
        ("sched_core = \"emulator\"", SchedCore::Emulator),
    ] {
        match (unixfd::has_core_scheduling(), of(text)) {
            (Ok(true), said) => assert_eq!(said.unwrap(), wanted),
            (Ok(false), said) => assert_eq!(
                said.unwrap_err().to_string(),
                "/etc/x.conf: sched_core: SCHED_CORE not supported by kernel"
            ),
            (Err(_), said) => assert!(
                said.unwrap_err()
                    .to_string()
                    .contains("SCHED_CORE cannot be used")
            ),
        }
    }
}

#[test]
fn odd_settings_are_noticed_and_the_first_of_two_counts() {
    let source = "bogus = 1\nlisten_tls = 0\nmax_clients = 50\nmax_clients = 60\nkeepalive_required = 1\n";
    let document = read(&DAEMON, source).unwrap();
    let about: Vec<_> = document
        .notices()
        .iter()
        .map(|n| (n.line, n.key.as_str()))
        .collect();
    assert_eq!(
        about,
        [
            (1, "bogus"),
            (2, "listen_tls"),
            (4, "max_clients"),
            (5, "keepalive_required")
        ]
    );
    assert!(document.notices()[1].about.contains("virtproxyd"));
    assert_eq!(DaemonConfig::from_document(&document).unwrap().limits.clients, 50);
}

#[test]
fn a_reload_knows_what_it_can_apply() {
    let old = read(&DAEMON, "log_level = 1").unwrap();
    let new = read(
        &DAEMON,
        "log_level = 2\nunix_sock_rw_perms = \"0770\"\nkeepalive_required = 1",
    )
    .unwrap();
    let changes = new.changes_since(&old);
    assert_eq!(
        (changes.live, changes.restart),
        (vec!["log_level"], vec!["unix_sock_rw_perms"])
    );
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_named() {
    let file = Path::new("/nonexistent/virtqemud.conf");
    assert!(Document::read(&DAEMON, file, Presence::Optional).is_ok());
    let error = Document::read(&DAEMON, file, Presence::Required)
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/virtqemud.conf"), "{error}");
}

/// `BLESS=1 cargo test` rewrites the files.
#[test]
fn shipped_files_are_those_of_the_tables() {
    for table in [&DAEMON, &QEMU, &LOCKD] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("conf")
            .join(table.file);
        let rendered = render(table);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &rendered).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            shipped == rendered,
            "{} is stale: run with BLESS=1",
            path.display()
        );
    }
}

#[test]
fn leases_are_required_where_they_are_not_taken_unless_the_file_says_otherwise() {
    let of = |text: &str| {
        let config = LockdConfig::from_document(&read(&LOCKD, text).unwrap());
        (config.auto_disk_leases, config.require_lease_for_disks)
    };
    assert_eq!(of(""), (true, false));
    assert_eq!(of("auto_disk_leases = 0"), (false, true));
    assert_eq!(
        of("auto_disk_leases = 0; require_lease_for_disks = 0"),
        (false, false)
    );
    assert_eq!(of("require_lease_for_disks = 1"), (true, true));
    let dirs = LockdConfig::from_document(
        &read(&LOCKD, "file_lockspace_dir = \"/a\"; lvm_lockspace_dir = \"\"").unwrap(),
    );
    assert!(dirs.keeps(Path::new("/a")) && !dirs.keeps(Path::new("")));
    assert!(read(&LOCKD, "file_lockspace_dir = \"a\"").is_err());
}

#[test]
fn the_lock_managers_file_is_read_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("qemu-lockd.conf"), "auto_disk_leases = 2").unwrap();
    let lockd = |text: &str| {
        let document = Document::from_text(&QEMU, &dir.path().join("qemu.conf"), text).unwrap();
        QemuConfig::lockd_document(&document)
    };
    assert!(lockd("").unwrap().is_none() && lockd("lock_manager = \"nop\"").unwrap().is_none());
    let error = lockd("lock_manager = \"lockd\"").unwrap_err().to_string();
    assert!(
        error.ends_with("qemu-lockd.conf:1: auto_disk_leases: expected 0 or 1"),
        "{error}"
    );
    std::fs::remove_file(dir.path().join("qemu-lockd.conf")).unwrap();
    assert!(lockd("lock_manager = \"lockd\"").unwrap().is_some());
}
