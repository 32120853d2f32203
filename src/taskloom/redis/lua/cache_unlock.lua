-- Unlock what is the owner's. KEYS the locks; ARGV: owner.
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then
    redis.call('DEL', key)
  end
end
