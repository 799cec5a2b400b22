/* Texts. The output is escaped here and nowhere else. */
#include "text.h"

static char line[16384];
static size_t used;

void *memcpy(void *into, const void *from, size_t size)
{
    char *to = into;
    const char *at = from;

    while (size--)
        *to++ = *at++;
    return into;
}

void *memset(void *into, int value, size_t size)
{
    char *to = into;

    while (size--)
        *to++ = (char)value;
    return into;
}

size_t length_of(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}

int begins(const char *text, const char *with)
{
    while (*with)
        if (*text++ != *with++)
            return 0;
    return 1;
}

int same(const char *one, const char *other)
{
    return begins(one, other) && length_of(one) == length_of(other);
}

const char *find(const char *text, const char *part)
{
    for (; *text; text++)
        if (begins(text, part))
            return text;
    return NULL;
}

void copy(char *into, size_t size, const char *from)
{
    while (size-- > 1 && *from)
        *into++ = *from++;
    *into = 0;
}

void join(char *into, size_t size, const char *one, const char *two)
{
    copy(into, size, one);
    copy(into + length_of(into), size - length_of(into), two);
}

long number(const char *text, const char **rest)
{
    long value = 0;

    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (*text - '0');
    if (rest)
        *rest = text;
    return value;
}

char *cut(char **text, char at)
{
    char *start = *text, *end;

    if (start == NULL)
        return NULL;
    for (end = start; *end && *end != at; end++)
        ;
    *text = *end ? end + 1 : NULL;
    *end = 0;
    return start;
}

static void put(char c)
{
    if (used < sizeof line - 1)
        line[used++] = c;
}

static void put_text(const char *text)
{
    while (*text)
        put(*text++);
}

static void put_escaped(const char *text, size_t length)
{
    static const char digits[] = "0123456789abcdef";

    for (; length--; text++) {
        unsigned char c = (unsigned char)*text;

        if (c >= 0x20 && c < 0x7f && c != '\\') {
            put((char)c);
        } else {
            put_text("\\x");
            put(digits[c >> 4]);
            put(digits[c & 15]);
        }
    }
}

static void put_number(long value, int base)
{
    char reversed[24];
    size_t length = 0;
    unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;

    if (value < 0)
        put('-');
    do
        reversed[length++] = (char)('0' + rest % (unsigned)base);
    while (rest /= (unsigned)base);
    while (length)
        put(reversed[--length]);
}

void say(const char *name)
{
    used = 0;
    put_text(name);
}

void say_numbered(const char *name, long number)
{
    say(name);
    put('.');
    put_number(number, 10);
}

static void put_key(const char *key)
{
    put('\t');
    put_escaped(key, length_of(key));
    put('=');
}

void field(const char *key, const char *value)
{
    field_bytes(key, value, length_of(value));
}

void field_bytes(const char *key, const char *value, size_t length)
{
    put_key(key);
    put_escaped(value, length);
}

void field_number(const char *key, long value)
{
    put_key(key);
    put_number(value, 10);
}

void field_octal(const char *key, long value)
{
    put_key(key);
    put_number(value, 8);
}

void field_result(const char *key, long result)
{
    put_key(key);
    if (result == TIMED_OUT) {
        put_text("timeout");
    } else if (result == NOT_RUN) {
        put_text("unrun");
    } else if (result <= -1000000) {
        put_text("signal:");
        put_number(-1000000 - result, 10);
    } else if (result < 0) {
        put_text("errno:");
        put_number(-result, 10);
    } else {
        put_text("ok");
    }
}

void done(void)
{
    size_t written = 0;

    line[used++] = '\n';
    while (written < used) {
        long got = CALL(__NR_write, 1, line + written, used - written);

        if (got == -E_INTR || got == -E_AGAIN)
            continue;
        if (got <= 0)
            leave(1);
        written += (size_t)got;
    }
}
