-- Unlock what is the owner's.
if redis.call('HGET', lock, 'owner') == owner then
  redis.call('HDEL', lock, 'owner', 'until')
end
