/* The probes, and what they are told. */
#ifndef PROBE_H
#define PROBE_H

#include "text.h"

/* The arguments `key=value` behind the phase. */
const char *told(const char *key);               /* the first value, or NULL */
const char *told_next(const char *key, int *at); /* one after the other; *at begins at 1 */
int is_weak(void);
char **environment(void);

/* privilege.c */
void probe_identity(void);
void probe_setuid(void);
void probe_namespaces(void);
/* mounts.c */
void probe_mounts(void);
void probe_root(void);
void probe_execution(void);
void probe_sizes(void);
void probe_masks(void);
void probe_descriptors(void);
/* devices.c */
void probe_devices(void);
void probe_sockets_of_engines(void);
/* kernel.c */
void probe_calls(void);
/* families.c */
void probe_families(void);
/* network.c */
void probe_reach(void);
/* routes.c: after that */
void probe_routes(void);
/* names.c */
void ask_names(void);
void probe_names(void);
/* gateway.c */
void probe_gateway(void);
/* limits.c */
void probe_limits(void);
void probe_open_files(void);
void probe_groups_of_control(void);
void probe_processors(void);
/* ends.c */
void fill_processes(void);
void fill_memory(void);
void be_stubborn(void);
/* files.c */
void probe_secrets(void);
void probe_git(void);

/* Makes a directory with all above it, where the weak sandbox lacks one. */
void make_directory(const char *path);

#endif
