-- The instances whose time has not ended. KEYS[1]: as in instances_note.
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
