"""What runs in the gateway's container beside HAProxy: names, rules, records, and HAProxy's own life.

Needs Python 3.11 or later and HAProxy 2.6 or later, and imports nothing else of sandboxrun.
"""
