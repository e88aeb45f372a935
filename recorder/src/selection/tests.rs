use super::*;
use crate::model::{Found, Reason};

fn user_id(name: &str) -> Option<u32> {
    match name {
        "root" => Some(0),
        "alice" => Some(1000),
        _ => None,
    }
}

fn expr(text: &str) -> Expr {
    parse(text, &user_id).unwrap_or_else(|error| panic!("{error}"))
}

/// A process that has everything.
fn curl() -> Process {
    Process {
        path: Some("/usr/bin/curl".into()),
        parent_pid: Some(7),
        uid: Some(1000),
        cgroup: Some("/system.slice/docker-0123456789abcdef.scope".into()),
        container: Some("0123456789abcdef".into()),
        unit: Some(r"a\x2db.scope".into()),
        ..Process::new(42, "curl")
    }
}

#[test]
fn each_key_is_compared_with_what_the_process_has() {
    let process = curl();
    for (text, expected) in [
        ("pid=42", true),
        ("pid=43", false),
        ("pid!=42", false),
        ("ppid=7", true),
        ("name=curl", true),
        ("name=cur", false),
        ("name~cur*", true),
        ("name~cur", false),
        ("name~c?r[kl]", true),
        ("name~c?r[!l]", false),
        ("name~{wget,curl}", true),
        ("exe=/usr/bin/curl", true),
        ("exe~/usr/*", true),
        ("user=alice", true),
        ("user=1000", true),
        ("uid=1000", true),
        ("user=root", false),
        ("cgroup~/system.slice/*", true),
        (r"unit=a\x2db.scope", true),
        (r"unit~a\x2db.*", true),
        (r#"unit="a\\x2db.scope""#, true),
        ("container=0123456789abcdef", true),
        ("container=0123456789ab", true),
        ("container=0123456789a", false),
        ("container=123456789abc", false),
        ("container~0123*", true),
    ] {
        assert_eq!(expr(text).holds(Some(&process)), expected, "{text}");
    }
}

#[test]
fn what_a_process_does_not_have_equals_nothing() {
    let bare = Process::new(1, "init");
    for key in ["ppid", "user", "exe", "cgroup", "unit", "container"] {
        let value = if matches!(key, "ppid" | "user") { "0" } else { "''" };
        assert!(!expr(&format!("{key}={value}")).holds(Some(&bare)), "{key}");
        assert!(expr(&format!("{key}!={value}")).holds(Some(&bare)), "{key}");
    }
    assert!(!expr("exe~*").holds(Some(&bare)));
    assert!(!expr("name~*").holds(None));
}

#[test]
fn names_are_bytes() {
    let odd = Process::new(1, b"a\xff\n\"(b".to_vec());
    for text in [r#"name="a\xff\x0a\"(b""#, r"name='a\xff\x0a\x22(b'", "name~a*b", r#"name~"a??\"(b""#] {
        assert!(expr(text).holds(Some(&odd)), "{text}");
    }
    assert!(expr("name='größe x'").holds(Some(&Process::new(1, "größe x"))));
}

#[test]
fn not_binds_closer_than_and_and_and_closer_than_or() {
    for (text, same) in [
        ("pid=1 or pid=2 and pid=3", "pid=1 or (pid=2 and pid=3)"),
        ("pid=1 and pid=2 or pid=3", "(pid=1 and pid=2) or pid=3"),
        ("not pid=1 and pid=2", "(not pid=1) and pid=2"),
        ("not pid=1 or pid=2", "(not pid=1) or pid=2"),
        ("!pid=1&&!pid=2||pid=3", "((not pid=1) and (not pid=2)) or pid=3"),
        ("not not pid=1", "not (not pid=1)"),
        ("not(pid=1 or pid=2)", "not (pid=1 or pid=2)"),
        ("  ( pid = 1 )  ", "pid=1"),
        ("not pid!=1", "not (pid!=1)"),
    ] {
        // Every combination of three facts: the pid is one of these, or none.
        for pid in 0..4 {
            let process = Process::new(pid, "");
            assert_eq!(
                expr(text).holds(Some(&process)),
                expr(same).holds(Some(&process)),
                "{text}; pid {pid}"
            );
        }
        assert_eq!(expr(text).to_string(), expr(same).to_string());
    }
    assert!(expr("pid=1 or pid=2 and pid=3").holds(Some(&Process::new(1, ""))));
}

#[test]
fn an_error_shows_its_place() {
    for (text, place, what) in [
        ("", "^ expected one such as name=curl", "a comparison is missing"),
        (
            "nmae=curl",
            "^ expected one of pid, ppid, name, exe, user, uid, cgroup, unit, container",
            "there is no key `nmae`",
        ),
        ("tid=1", "^ expected one of pid", "there is no key `tid`"),
        ("name=curl or", "            ^ expected one such as name=curl", "a comparison is missing"),
        ("name=curl and or pid=1", "              ^ expected one such", "a comparison is missing"),
        ("name curl", "     ^ expected `=`, `!=` or `~`", "a comparison is missing"),
        ("name=", "     ^ expected a value", "a value is missing"),
        ("name==curl", "     ^ expected a value", "a value is missing"),
        ("name=and pid=1", "     ^ expected a value", "a value is missing"),
        ("name=curl pid=1", "          ^ expected `and`, `or` or the end", "the expression goes on"),
        ("name=größe pid=1", "           ^ expected `and`, `or` or the end", "the expression goes on"),
        ("(name=curl", "          ^ expected `and`, `or` or `)`", "a ( is not closed"),
        ("name=curl)", "         ^ expected `and`, `or` or the end", "there is no ( for this )"),
        ("pid=curl", "    ^ expected a number", "`curl` is no process id"),
        ("pid=-1", "    ^ expected a number", "`-1` is no process id"),
        ("pid=+1", "    ^ expected a number", "`+1` is no process id"),
        ("ppid=4294967296", "     ^ expected a number", "`4294967296` is no process id"),
        ("pid=1 or user=bob", "              ^ expected the name of a user", "there is no user `bob` here"),
        ("pid~4*", "   ^ expected `=` or `!=`", "`~` compares texts, and pid is a number"),
        ("user~al*", "    ^ expected `=` or `!=`", "`~` compares texts, and user is a number"),
        ("name~[a", "     ^ expected a pattern", "this pattern is damaged, "),
        (r"name~'\xff'", "     ^ expected a pattern", "this pattern is not UTF-8"),
        ("name='curl", "     ^ expected a second '", "these quotes are not closed"),
        (r"name='a\q'", r"       ^ expected one of \\, \', ", "there is no such escape"),
        (r"name='a\x4'", r"       ^ expected one of \\, \', ", "there is no such escape"),
        ("name=a & name=b", "       ^ expected `and`, `or` or the end", "the expression goes on"),
    ] {
        let error = parse(text, &user_id).map(|expr| expr.to_string()).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines[0].starts_with(what), "{text}: {error}");
        assert_eq!(lines[1], format!("  {text}"));
        assert!(lines[2].starts_with(&format!("  {place}")), "{text}: {error}");
    }
}

#[test]
fn a_line_break_does_not_move_the_place() {
    let error = parse("name=a\n\tor name", &user_id).unwrap_err();
    assert_eq!((error.line.as_str(), error.column), ("name=a  or name", 15));
}

#[test]
fn no_depth_of_nesting_breaks_it() {
    let deep = |level: usize| format!("{}pid=1{}", "(".repeat(level), ")".repeat(level));
    assert!(parse(&deep(100), &user_id).is_ok());
    for text in [deep(101), deep(100_000), format!("{}pid=1", "not ".repeat(100_000)), "!(".repeat(100_000)] {
        let error = parse(&text, &user_id).map(|_| ()).unwrap_err();
        assert_eq!(error.what, "this is nested too deep");
    }
    let wide = vec!["(not pid=1)"; 10_000].join(" or ");
    assert!(parse(&wide, &user_id).is_ok(), "side by side is not deep");
}

#[test]
fn an_expression_is_written_as_it_can_be_read() {
    for (text, written) in [
        ("pid=1", "pid=1"),
        ("uid = alice", "user=alice"),
        ("not name='curl'", "name!=curl"),
        ("!name~c*", "not name~c*"),
        ("not(pid=1||pid=2)&&ppid=3", "not (pid=1 or pid=2) and ppid=3"),
        ("(pid=1 and pid=2) and pid=3", "(pid=1 and pid=2) and pid=3"),
        ("name='and' or name=''", r#"name="and" or name="""#),
        (r#"name='a "b"\xff'"#, r#"name="a \"b\"\xff""#),
        (r"unit=a\x2db", r"unit=a\x2db"),
        (r"name='a\\ b'", r#"name="a\\ b""#),
        (r"name='a\x0ab'", r#"name="a\x0ab""#),
        ("name='~x'", r#"name="~x""#),
    ] {
        assert_eq!(expr(text).to_string(), written);
        assert_eq!(expr(written).to_string(), written, "and it stays");
    }
}

// --- packets

/// The processes a, b, and one of which only the id is known.
fn table() -> ProcessTable {
    let mut table = ProcessTable::default();
    table.push(Process { uid: Some(0), ..Process::new(1, "a") });
    table.push(Process { uid: Some(1000), ..Process::new(2, "b") });
    table.push(Process::new(3, ""));
    table
}

/// Packets between all kinds of ends: nobody, each process, one that the table does not hold.
fn packets() -> Vec<Attribution> {
    let ends = [None, Some(0), Some(1), Some(2), Some(9)];
    let owner = |index: Option<u32>| index.map(|index| Owner { process: ProcessIndex(index), tid: 0 });
    let mut packets = vec![Attribution::Unknown(Reason::NoSocket)];
    for sender in ends {
        for receiver in ends {
            packets.push(Attribution::Known {
                sender: owner(sender),
                receiver: owner(receiver),
                both_local: true,
                found: Found::Socket,
            });
        }
    }
    packets
}

fn kept(text: &str) -> Vec<bool> {
    let (mut filter, table) = (ProcessFilter::new(expr(text)), table());
    packets().iter().map(|packet| filter.keeps(packet, &table)).collect()
}

#[test]
fn an_expression_and_its_opposite_divide_the_packets() {
    let atoms = ["name=a", "name!=a", "user=root", "pid=3", "name~*", "not user=1000"];
    let mut expressions: Vec<String> = atoms.map(str::to_owned).to_vec();
    for one in atoms {
        for other in atoms {
            expressions.push(format!("{one} and {other}"));
            expressions.push(format!("{one} or {other}"));
            expressions.push(format!("not ({one} or not {other}) or pid=1"));
        }
    }
    for text in expressions {
        let (kept, left_out) = (kept(&text), kept(&format!("not ({text})")));
        for (index, (kept, left_out)) in kept.into_iter().zip(left_out).enumerate() {
            assert!(kept != left_out, "{text}: packet {:?}", packets()[index]);
        }
    }
}

#[test]
fn what_includes_wants_one_end_and_what_excludes_wants_both() {
    let all = packets();
    let ends = |packet: &Attribution| match packet {
        Attribution::Known { sender, receiver, .. } => {
            [*sender, *receiver].into_iter().flatten().map(|owner| owner.process.0).collect()
        }
        Attribution::Unknown(_) => Vec::new(),
    };
    for (packet, kept) in all.iter().zip(kept("name=a")) {
        assert_eq!(kept, ends(packet).contains(&0), "{packet:?}");
    }
    for (packet, kept) in all.iter().zip(kept("not name=a")) {
        assert_eq!(kept, !ends(packet).contains(&0), "{packet:?}");
    }
    assert!(kept("name!=a")[0], "nobody's packet stays when somebody is left out");
    assert!(!kept("user=root or user=1000")[0], "and is not when somebody is asked for");
}

#[test]
fn what_is_told_of_a_process_behind_its_packets_is_noticed() {
    let mut table = ProcessTable::default();
    let key = crate::model::ProcessKey { pid: 5, start_boottime_ns: 0, exec_id: 0 };
    let index = table.put(key, Process::new(5, "x"));
    let packet = Attribution::Known {
        sender: Some(Owner { process: index, tid: 0 }),
        receiver: None,
        both_local: false,
        found: Found::Socket,
    };
    let mut by_user = ProcessFilter::new(expr("user=root"));
    let mut by_name = ProcessFilter::new(expr("name=x"));
    assert!(!by_user.keeps(&packet, &table) && by_name.keeps(&packet, &table));
    table.put(key, Process { uid: Some(0), ..Process::new(5, "x") });
    assert_eq!((by_user.misjudged(&table), by_name.misjudged(&table)), (1, 0));
    by_user.learn(&table);
    assert!(by_user.keeps(&packet, &table));
    assert_eq!(by_user.misjudged(&table), 0);
}
