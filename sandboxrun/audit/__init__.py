"""The review: rules, policy, waivers and the privilege diff. Pure: from what is declared or runs to findings."""
