//! Names of a guest's groups.

/// Longest name of a machine.
const MACHINE_MAX: usize = 64;

/// The name under which the host knows a guest: "qemu-ID-NAME", with what a host's name can't have left out.
#[must_use]
pub fn machine_name(id: i32, name: &str) -> String {
    let mut machine = format!("qemu-{id}-");
    let mut after_mark = true;
    for letter in name.chars() {
        if machine.len() >= MACHINE_MAX {
            break;
        }
        match letter {
            '.' | '-' if after_mark => {}
            '.' | '-' => {
                machine.push(letter);
                after_mark = true;
            }
            other => {
                after_mark = false;
                if other.is_ascii_alphanumeric() {
                    machine.push(other);
                }
            }
        }
    }
    machine.truncate(machine.trim_end_matches(['-', '.']).len());
    machine
}

/// Where a partition's group is below a mount: those that are not the host's own three, and have no ending, end with
/// ".partition".
pub(super) fn partition_path(partition: &str) -> String {
    let part = |(place, part): (usize, &str)| {
        let is_own = place == 0 && matches!(part, "machine" | "system" | "user");
        if is_own || part.contains('.') {
            part.to_owned()
        } else {
            format!("{part}.partition")
        }
    };
    let parts: Vec<String> = partition
        .split('/')
        .filter(|part| !part.is_empty())
        .enumerate()
        .map(part)
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_as_a_host_can_be() {
        for (id, name, machine) in [
            (1, "demo", "qemu-1-demo"),
            (12, "-.a b_c--d.", "qemu-12-abc-d"),
            (3, "ünder", "qemu-3-nder"),
            (4, "--", "qemu-4"),
        ] {
            assert_eq!(machine_name(id, name), machine);
        }
        assert_eq!(machine_name(1, &"x".repeat(100)).len(), MACHINE_MAX);
    }

    #[test]
    fn partitions_end_with_their_kind() {
        for (partition, path) in [
            ("/machine", "machine"),
            ("/machine/prod", "machine/prod.partition"),
            ("/a/b.slice", "a.partition/b.slice"),
            ("/", ""),
        ] {
            assert_eq!(partition_path(partition), path);
        }
    }
}
