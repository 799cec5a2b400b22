/* Texts: what is printed, and what is read from /proc. */
#ifndef TEXT_H
#define TEXT_H

#include "sys.h"

/* One line a probe: say("name"); field("key", "value"); ...; done(). It is written when it is whole. */
void say(const char *name);
void say_numbered(const char *name, long number);
void field(const char *key, const char *value);
void field_bytes(const char *key, const char *value, size_t length);
void field_number(const char *key, long value);
void field_octal(const char *key, long value);
void field_result(const char *key, long result); /* ok, errno:1, signal:31, timeout, unrun */
void done(void);

size_t length_of(const char *text);
int same(const char *one, const char *other);
int begins(const char *text, const char *with);
const char *find(const char *text, const char *part);
void copy(char *into, size_t size, const char *from);
void join(char *into, size_t size, const char *one, const char *two);
long number(const char *text, const char **rest);
char *cut(char **text, char at); /* the part before `at`; *text goes on behind it, NULL at the end */
void *memcpy(void *into, const void *from, size_t size);
void *memset(void *into, int value, size_t size);

#endif
