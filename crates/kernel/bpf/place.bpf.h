/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * The one spelling of a socket's path that is judged and recorded (core::path::usual): from the root, without `.`, `..`
 * and empty components, and `/run` for `/var/run`, which is a link to it everywhere. What is relative is below the
 * directory that the process works in. Other links, and bind mounts, are not followed: only the file system knows them.
 * Of a socket that was reached (reach.bpf.h), whose name is relative, the file tells where it is.
 *
 * Written from its end: there a `..` is met before what it takes away, be that in the path or in the directory.
 */
#ifndef BLACKSTART_PLACE_H
#define BLACKSTART_PLACE_H

/* A text of at most BS_PLACE_END octets; as much again behind it is where the verifier sees a component end. */
enum { BS_PLACE_END = 255, BS_PLACE_GIVEN = 128, BS_PLACES = 8, BS_PLACE_DEPTH = 128 };

struct bs_place {
	__u64 claimed;
	__u32 at;   /* where the text begins; it ends with NUL at BS_PLACE_END */
	__u32 skip; /* components that are to be taken away */
	__u32 len;  /* of what was given, */
	__u32 end;  /* and of that, of the component at hand */
	__u32 broken;
	__u32 pad;
	__u8 given[BS_PLACE_GIVEN];
	__u8 text[2 * (BS_PLACE_END + 1)];
};

/* As bs_questions. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BS_PLACES);
	__type(key, __u32);
	__type(value, struct bs_place);
} bs_places SEC(".maps");

static __always_inline struct bs_place *bs_place_claim(void)
{
	for (__u32 i = 0; i < BS_PLACES; i++) {
		__u32 key = i;
		struct bs_place *s = bpf_map_lookup_elem(&bs_places, &key);

		if (s && !__sync_val_compare_and_swap(&s->claimed, 0, 1))
			return s;
	}
	return 0;
}

static __always_inline void bs_place_leave(struct bs_place *s)
{
	barrier();
	*(volatile __u64 *)&s->claimed = 0;
}

/* A component before those that are there, or none if one was to be taken away. -1: no room. */
static __always_inline int bs_place_put(struct bs_place *s, const void *name, __u64 len)
{
	__u64 at = s->at;

	if (s->skip) {
		s->skip--;
		return 0;
	}
	if (len >= at) {
		s->broken = 1;
		return -1;
	}
	at -= len + 1;
	BS_MASK_BY(at, BS_PLACE_END);
	BS_MASK_BY(len, BS_PLACE_END);
	s->text[at] = '/';
	bpf_probe_read_kernel(s->text + at + 1, len, name);
	s->at = at;
	return 0;
}

/* One octet of what was given, from its end: does a component begin behind it? */
static long bs_place_step(__u32 index, struct bs_place **of)
{
	struct bs_place *s = *of;
	__u64 from = s->len - index;
	__u32 len;

	BS_MASK_BY(from, BS_PLACE_GIVEN - 1);
	if (from && s->given[(from - 1) & (BS_PLACE_GIVEN - 1)] != '/')
		return 0;
	len = s->end - from;
	s->end = from - 1;
	if (!len)
		return 0;
	if (s->given[from] == '.') {
		if (len == 1)
			return 0;
		if (len == 2 && s->given[(from + 1) & (BS_PLACE_GIVEN - 1)] == '.') {
			s->skip++;
			return 0;
		}
	}
	return bs_place_put(s, s->given + from, len) != 0;
}

/* On the way from a directory to the root of its process. */
struct bs_place_way {
	struct bs_place *place;
	struct path at;
	struct path root;
};

static long bs_place_up(__u32 index, struct bs_place_way *w)
{
	struct dentry *dentry = w->at.dentry, *parent;
	struct vfsmount *mnt = w->at.mnt;
	const __u8 *name;

	if (!dentry || (dentry == w->root.dentry && mnt == w->root.mnt))
		goto there;
	if (dentry == BPF_CORE_READ(mnt, mnt_root)) {
		struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
		struct mount *above = BPF_CORE_READ(mount, mnt_parent);

		if (above == mount)
			goto there;
		w->at.dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		w->at.mnt = (void *)above + bpf_core_field_offset(struct mount, mnt);
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry)
		goto there;
	name = BPF_CORE_READ(dentry, d_name.name);
	w->at.dentry = parent;
	return bs_place_put(w->place, name, BPF_CORE_READ(dentry, d_name.len)) != 0;
there:
	w->at.dentry = 0;
	return 1;
}

/* The usual spelling of the path in s->given; of the file `bound` in its place, if there is one. -1: it is longer than can be
 * told. */
static __always_inline int bs_place_find(struct bs_place *s, const struct path *bound)
{
	static const char var_run[] = "/var/run/";
	__u32 differs = 0;
	__u64 at;

	s->at = BS_PLACE_END;
	s->end = s->len;
	s->skip = s->broken = 0;
	s->text[BS_PLACE_END] = 0;
	bpf_loop(s->len + 1, bs_place_step, &s, 0);
	if (s->given[0] != '/') {
		struct task_struct *task = (void *)bpf_get_current_task();
		struct bs_place_way w = { .place = s };

		if (bound) {
			/* Up to the root of its mount namespace. */
			w.at.dentry = BPF_CORE_READ(bound, dentry);
			w.at.mnt = BPF_CORE_READ(bound, mnt);
		} else {
			w.at.dentry = BPF_CORE_READ(task, fs, pwd.dentry);
			w.at.mnt = BPF_CORE_READ(task, fs, pwd.mnt);
			w.root.dentry = BPF_CORE_READ(task, fs, root.dentry);
			w.root.mnt = BPF_CORE_READ(task, fs, root.mnt);
		}
		bpf_loop(BS_PLACE_DEPTH, bs_place_up, &w, 0);
		if (w.at.dentry)
			return -1;
	}
	if (s->broken)
		return -1;
	at = s->at;
	if (at >= BS_PLACE_END) {
		at = BS_PLACE_END - 1;
		s->text[at] = '/';
	}
	BS_MASK_BY(at, BS_PLACE_END);
	for (__u32 i = 0; i < sizeof(var_run) - 1; i++)
		differs |= s->text[at + i] ^ var_run[i];
	s->at = differs ? at : at + sizeof("/var") - 1;
	return 0;
}

#endif
